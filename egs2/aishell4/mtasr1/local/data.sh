#!/usr/bin/env bash
# AISHELL-4's archives, unpacked, to data directories train, train_L, train_M, train_S, dev and test.
set -euo pipefail

datadir=data          # the data directories are made in here
lang=zh               # language; the corpus is Mandarin
nj=1                  # parallel jobs
debug=false           # a few meetings only
channel=1             # of the array's 8 channels
profile=zh_char       # text normalisation
dev_sessions=local/dev_sessions.txt  # meetings of the training parts that choose the model
allow_problems=false  # go on when single meetings cannot be used
. utils/parse_options.sh
. ./db.sh
. ./path.sh

[ "${lang}" = zh ] || { echo "local/data.sh: --lang ${lang}: the corpus is Mandarin; leave --lang out" >&2; exit 1; }
python3 -m espnet_mt_llm.bin.prepare_aishell4 --root "${AISHELL4}" --out "${datadir}" --nj "${nj}" \
    --debug "${debug}" --channel "${channel}" --profile "${profile}" --dev_sessions "${dev_sessions}" \
    --allow_problems "${allow_problems}"
