#!/usr/bin/env bash
# copy_data_dir.sh [--utt-prefix p] [--spk-prefix p] [--rec-prefix p] <src> <dst>
root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
PYTHONPATH="${root}${PYTHONPATH:+:${PYTHONPATH}}" exec python3 -m espnet_mt_llm.bin.copy_data_dir "$@"
