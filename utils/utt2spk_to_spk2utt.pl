#!/usr/bin/env bash
# utt2spk_to_spk2utt.pl [utt2spk] > spk2utt
root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
PYTHONPATH="${root}${PYTHONPATH:+:${PYTHONPATH}}" exec python3 -m espnet_mt_llm.bin.invert_utt2spk "$@"
