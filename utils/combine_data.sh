#!/usr/bin/env bash
# combine_data.sh <dst> <src>…
root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
PYTHONPATH="${root}${PYTHONPATH:+:${PYTHONPATH}}" exec python3 -m espnet_mt_llm.bin.combine_data_dirs "$@"
