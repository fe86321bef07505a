#!/usr/bin/env bash
# split_scp.pl [--utt2spk f] <scp> <part>…, or -j <parts> <job> [--one-based] <scp> [<part>]
root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
PYTHONPATH="${root}${PYTHONPATH:+:${PYTHONPATH}}" exec python3 -m espnet_mt_llm.bin.split_scp "$@"
