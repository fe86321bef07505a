# Sourced by every script of a recipe: the Python of tools/venv, this package, and one behaviour on every machine.
MAIN_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
export MAIN_ROOT

if [ -x "${MAIN_ROOT}/tools/venv/bin/python3" ]; then
    export VIRTUAL_ENV="${MAIN_ROOT}/tools/venv"
    export PATH="${VIRTUAL_ENV}/bin:${PATH}"
elif ! python3 -c 'import soundfile, yaml, meeteval' 2>/dev/null; then
    echo "path.sh: Python's packages are missing; install them with ${MAIN_ROOT}/tools/setup.sh" >&2
    exit 1
fi
export PATH="${PWD}/utils:${PATH}"
export PYTHONPATH="${MAIN_ROOT}${PYTHONPATH:+:${PYTHONPATH}}"

# Sorting as Kaldi's tools expect it, and UTF-8 in Python all the same.
export LC_ALL=C PYTHONUTF8=1 PYTHONIOENCODING=UTF-8
# One thread a process unless a launcher is told otherwise (--num-threads): parallel jobs must not fight for the cores.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
