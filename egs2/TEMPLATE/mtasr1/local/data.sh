#!/usr/bin/env bash
# Make the data directories of this recipe from the raw corpus named in db.sh.
set -euo pipefail

datadir=data  # the data directories are made in here
lang=en       # language
nj=1          # parallel jobs
debug=false   # a few recordings only
. utils/parse_options.sh
. ./db.sh
. ./path.sh

if [ ! -d "${CORPUS}" ]; then
    echo "local/data.sh: ${CORPUS} is not there; set CORPUS in db.sh or in the environment" >&2
    exit 1
fi
echo "local/data.sh: write here the command that makes ${datadir}/<set>/{wav.scp,segments,utt2spk,text}, e.g." \
    "python3 -m espnet_mt_llm.bin.prepare_<corpus> --root ${CORPUS} --out ${datadir} --nj ${nj} --debug ${debug}" >&2
exit 1
