#!/usr/bin/env bash
# AliMeeting's archives, unpacked, to data directories {train,eval,test}_{far,near}.
set -euo pipefail

datadir=data          # the data directories are made in here
lang=zh               # language; the corpus is Mandarin
nj=1                  # parallel jobs
debug=false           # a few meetings only
fields=far,near       # the array (far), the headsets (near)
channel=1             # of the 8 far-field channels
profile=zh_char       # text normalisation: zh_char (NFKC) or zh_char_official (M2MeT's script)
allow_problems=false  # go on when single meetings cannot be used
. utils/parse_options.sh
. ./db.sh
. ./path.sh

[ "${lang}" = zh ] || { echo "local/data.sh: --lang ${lang}: the corpus is Mandarin; leave --lang out" >&2; exit 1; }
common=(--out "${datadir}" --nj "${nj}" --debug "${debug}" --allow_problems "${allow_problems}")
# Single recordings with problems stop no other corpus; the exit code tells of them at the end.
code=0
python3 -m espnet_mt_llm.bin.prepare_alimeeting --root "${ALIMEETING}" --channel "${channel}" --profile "${profile}" \
    --fields ${fields//,/ } "${common[@]}" || code=$?
if [ -n "${AISHELL2}" ]; then
    python3 -m espnet_mt_llm.bin.prepare_aishell2 --root "${AISHELL2}" "${common[@]}" || code=$?
fi
if [ -n "${LIBRISPEECH}" ]; then
    python3 -m espnet_mt_llm.bin.prepare_librispeech --root "${LIBRISPEECH}" "${common[@]}" || code=$?
fi

# list_audio <folder, or folder/glob> <scp> [<option>...]: list the recordings of a folder
list_audio() {
    local path=$1 root pattern='*'
    [[ ${path} == */* ]] || path=./${path}
    root=${path}
    if [ ! -d "${path}" ] && [[ ${path} == *[*?[]* ]]; then
        root=${path%%[*?[]*}  # up to the folder before the first * ? or [
        root=${root%/*}/
        pattern=${path#"${root}"}
    fi
    python3 -m espnet_mt_llm.bin.list_audio --root "${root}" --pattern "${pattern}" --out "$2" "${@:3}"
}

if [ -n "${NOISE}" ]; then
    list_audio "${NOISE}" "${datadir}/noise.scp" || code=$?
fi
if [ -n "${RIRS}" ]; then
    list_audio "${RIRS}" "${datadir}/rir.scp" ${NOISE:+--apart_from "${datadir}/noise.scp"} || code=$?
fi
exit "${code}"
