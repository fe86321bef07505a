#!/usr/bin/env bash
# Set up what the tests need and run them: tools/test.sh [options of pytest], e.g. tools/test.sh test/datadir -x
set -euo pipefail
cd "$(dirname "$0")/.."

tools/setup.sh --extras train,synth,score,viz,llm,pretrained,test

# No test may reach for the network, and parallel tests must not fight for the cores.
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
export PYTHONPATH="${PWD}${PYTHONPATH:+:${PYTHONPATH}}" PYTHONUTF8=1
# As many workers as cores, unless the caller chooses (-n 0 for a debugger).
exec tools/venv/bin/python3 -m pytest -n auto "$@"
