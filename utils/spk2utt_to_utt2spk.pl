#!/usr/bin/env bash
# spk2utt_to_utt2spk.pl [spk2utt] > utt2spk
root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
PYTHONPATH="${root}${PYTHONPATH:+:${PYTHONPATH}}" exec python3 -m espnet_mt_llm.bin.invert_utt2spk --inverse "$@"
