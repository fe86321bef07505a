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
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Threads wait for each other some microseconds before they sleep: a small model on two cores trains 1.7 times as fast as
# with OMP_WAIT_POLICY=passive, and unlike with active, processes that share the cores do not stop each other.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-3000}
# Large blocks are kept and used again; taking them from the system at every step costs a tenth of a training.
export MALLOC_ARENA_MAX=${MALLOC_ARENA_MAX:-1} MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-268435456}
export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-2147483648}
# Each new length of a batch leaves compiled kernels behind; the default of 1024 grows to gigabytes, 32 is as fast.
export ONEDNN_PRIMITIVE_CACHE_CAPACITY=${ONEDNN_PRIMITIVE_CACHE_CAPACITY:-32}
