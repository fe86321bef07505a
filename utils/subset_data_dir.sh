#!/usr/bin/env bash
# subset_data_dir.sh [--first|--last|--shortest|--per-spk|--speakers|--recordings] <src> <n> <dst>, or --utt-list f <src> <dst>
root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
PYTHONPATH="${root}${PYTHONPATH:+:${PYTHONPATH}}" exec python3 -m espnet_mt_llm.bin.subset_data_dir "$@"
