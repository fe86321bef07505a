#!/usr/bin/env bash
# Set up everything that the recipes need in tools/venv; run again at any time: what is there already is kept.
# usage: tools/setup.sh [--python python3.11] [--extras train,synth,score,viz,llm,pretrained]
set -euo pipefail

python=                   # interpreter, 3.10 to 3.12; default: python3, or one of these that is there
extras=train,synth,score,viz,llm,pretrained  # of setup.py: those, test, all; what is installed already stays
venv=                     # where to install, default: tools/venv
. "$(dirname "$0")/../utils/parse_options.sh"

root=$(cd "$(dirname "$0")/.." && pwd)
venv=${venv:-${root}/tools/venv}
installed=${venv}/.installed   # what setup.py asked for at the last complete installation

fail() { echo "tools/setup.sh: $*" >&2; exit 1; }

choose_python() {
    local candidate
    for candidate in ${python:-python3 python3.12 python3.11 python3.10}; do
        if "${candidate}" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            command -v "${candidate}"
            return
        fi
    done
    # espnet 202511 pins sentencepiece 0.2.0, which has no wheel for a newer Python and does not compile there.
    fail "${python:-python3} is missing or not Python 3.10, 3.11 or 3.12; install one (apt-get install python3, or" \
        "uv python install 3.12) and give it: tools/setup.sh --python /path/to/python3.12"
}

make_venv() {
    local base
    base=$(choose_python)
    "${base}" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "${base} cannot make virtual environments; on Debian and Ubuntu: sudo apt-get install python3-venv"
    echo "tools/setup.sh: new environment ${venv} with ${base}"
    if ! "${base}" -m venv "${venv}"; then
        rm -rf "${venv}"
        fail "python -m venv failed; on Debian and Ubuntu: sudo apt-get install python3-venv"
    fi
}

check_compiler() { # meeteval and pyworld come as source: they need a C++ compiler and Python's headers
    local missing=
    command -v c++ >/dev/null || missing+=" g++"
    "${venv}/bin/python3" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || missing+=" python3-dev"
    [ -z "${missing}" ] || fail "a compiler is needed; on Debian and Ubuntu: sudo apt-get install${missing}"
}

if [ -n "${python}" ] && [ -x "${venv}/bin/python3" ]; then
    base=$(choose_python)
    wanted=$("${base}" -c 'import sys; print(sys.version_info[:2])')
    [ "${wanted}" = "$("${venv}/bin/python3" -c 'import sys; print(sys.version_info[:2])')" ] ||
        fail "${venv} holds another Python version; remove it first: rm -r ${venv}"
fi
# An interpreter that has gone (an upgraded system) leaves an environment that cannot run.
"${venv}/bin/python3" -c '' 2>/dev/null || make_venv

digest=$(sha1sum <"${root}/setup.py" | cut -d ' ' -f 1)
before=
if [ -r "${installed}" ]; then before=$(sed -n 2p "${installed}"); fi
wanted=$(tr ',' '\n' <<<"${before},${extras}" | sed '/^$/d' | LC_ALL=C sort -u | paste -sd ,)
if [ "${wanted}" = "${before}" ] && [ "$(sed -n 1p "${installed}")" = "${digest}" ]; then
    echo "tools/setup.sh: ${venv} has ${wanted} already"
    exit 0
fi
check_compiler
echo "tools/setup.sh: installing ${wanted}; the first time, this takes some minutes (about 6 GB with training)"
pip=("${venv}/bin/python3" -m pip install --quiet --disable-pip-version-check)
# pip 26.3 refuses ci_sdr, which espnet needs ("Distributions from PyPI cannot declare direct URL dependencies"); a pip
# that fits stays as it is.
"${pip[@]}" 'pip<26.3' || fail "pip could not install an older pip (see above); repair the cause and run this again"
"${pip[@]}" --editable "${root}[${wanted}]" ||
    fail "pip could not install everything (see above); repair the cause and run this again"
printf '%s\n' "${digest}" "${wanted}" >"${installed}.tmp"
mv "${installed}.tmp" "${installed}"
# It reports what was not asked for, too: no reason to call this installation a failure.
"${venv}/bin/python3" "${root}/tools/check_install.py" || true
