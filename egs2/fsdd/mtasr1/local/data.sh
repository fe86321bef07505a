#!/usr/bin/env bash
# Make strings of spoken digits from the corpus that db.sh names: data directories train, dev and test (unseen takes).
set -euo pipefail

datadir=data  # the data directories are made in here
lang=en       # language; the corpus is English
nj=1          # parallel jobs
debug=false   # a few strings only
seed=1        # another one gives other strings
. utils/parse_options.sh
. ./db.sh
. ./path.sh

[ "${lang}" = en ] || { echo "local/data.sh: --lang ${lang}: the corpus is English; leave --lang out" >&2; exit 1; }
python3 -m espnet_mt_llm.bin.prepare_fsdd --root "${FSDD}" --out "${datadir}" --seed "${seed}" --nj "${nj}" \
    --debug "${debug}"
