#!/usr/bin/env bash
# get_reco2dur.sh <data-dir>
root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
PYTHONPATH="${root}${PYTHONPATH:+:${PYTHONPATH}}" exec python3 -m espnet_mt_llm.bin.make_durations "$@"
