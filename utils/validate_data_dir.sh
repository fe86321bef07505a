#!/usr/bin/env bash
# validate_data_dir.sh [--no-text] [--no-wav] [--no-feats] [--no-spk-sort] <data-dir>…
root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
PYTHONPATH="${root}${PYTHONPATH:+:${PYTHONPATH}}" exec python3 -m espnet_mt_llm.bin.validate_data_dir "$@"
