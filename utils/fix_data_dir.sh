#!/usr/bin/env bash
# fix_data_dir.sh <data-dir>
root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
PYTHONPATH="${root}${PYTHONPATH:+:${PYTHONPATH}}" exec python3 -m espnet_mt_llm.bin.fix_data_dir "$@"
