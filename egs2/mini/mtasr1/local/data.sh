#!/usr/bin/env bash
# Make the corpus by speech synthesis: data directories train, dev and test with disjoint speakers and sentences.
set -euo pipefail

datadir=data  # the data directories are made in here
root=         # the recordings are made in here, default: downloads/mini beside the data directories
lang=en       # language: en or zh
nj=1          # parallel jobs
debug=false   # a few recordings only
seed=1        # another one gives other sentences and voices
. utils/parse_options.sh
. ./db.sh
. ./path.sh

beside=$(dirname "${datadir}")/
root=${root:-${beside#./}downloads/mini}
python3 -m espnet_mt_llm.bin.prepare_mini --root "${root}" --out "${datadir}" --lang "${lang}" --seed "${seed}" \
    --nj "${nj}" --debug "${debug}"
