#!/usr/bin/env bash
# AISHELL-5's archives, unpacked, to data directories {train,dev,eval1,eval2}_far, {train,...}_near and the noise list.
set -euo pipefail

datadir=data          # the data directories are made in here
lang=zh               # language; the corpus is Mandarin
nj=1                  # parallel jobs
debug=false           # a few sessions only
channel=1             # far-field microphone: 1 to 4, one above each door
profile=zh_char       # text normalisation
spk_zone_id=          # the baseline's list of sessions, speakers and seats, to check against; empty: none
allow_problems=false  # go on when single sessions cannot be used
. utils/parse_options.sh
. ./db.sh
. ./path.sh

[ "${lang}" = zh ] || { echo "local/data.sh: --lang ${lang}: the corpus is Mandarin; leave --lang out" >&2; exit 1; }
python3 -m espnet_mt_llm.bin.prepare_aishell5 --root "${AISHELL5}" --out "${datadir}" --nj "${nj}" \
    --debug "${debug}" --channel "${channel}" --profile "${profile}" ${spk_zone_id:+--spk_zone_id "${spk_zone_id}"} \
    --allow_problems "${allow_problems}"
