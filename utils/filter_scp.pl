#!/usr/bin/env bash
# filter_scp.pl [--exclude] [-f n] <ids> [<scp>]
root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
PYTHONPATH="${root}${PYTHONPATH:+:${PYTHONPATH}}" exec python3 -m espnet_mt_llm.bin.filter_scp "$@"
