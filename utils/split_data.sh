#!/usr/bin/env bash
# split_data.sh [--per-utt|--per-reco] <data-dir> <parts>
root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
PYTHONPATH="${root}${PYTHONPATH:+:${PYTHONPATH}}" exec python3 -m espnet_mt_llm.bin.split_data_dir --by spk "$@"
