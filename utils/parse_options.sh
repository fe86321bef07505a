# Sourced by a script after it has set its options as variables (name=default  # what it is):
#   . utils/parse_options.sh
# --some-name value sets some_name; only variables that are set already are options; --config FILE is sourced first;
# --help prints ${help_message}, or the script's own option lines where it has none; what is no option stays in "$@".

_parse_options_fail() {
    printf '%s: %s\n' "$0" "$1" >&2
    exit 1
}

_parse_options_unknown() {
    local name=$1 words
    # The options are the variables that the script itself assigns at the start of a line.
    words=$(sed -nE 's/^([A-Za-z_][A-Za-z0-9_]*)=.*/\1/p; /parse_options\.sh/q' "$0")
    # shellcheck disable=SC2086
    python3 -S - "${name}" ${words} <<'EOF' || true
import difflib, sys
name, words = sys.argv[1], sorted(set(sys.argv[2:]))
close = difflib.get_close_matches(name, words, n=1)
print(f"did you mean --{close[0]}?" if close else "valid: " + " ".join("--" + w for w in words))
EOF
}

_parse_options_help() {
    if [ -n "${help_message:-}" ]; then
        printf '%b\n' "${help_message}"
        return
    fi
    sed -nE '1d; /^[^#]/q; s/^# ?//p' "$0"
    echo "Options, with their defaults:"
    sed -nE '/parse_options\.sh/q
        s/^#+ (.+)/\n\1/p
        s/^([A-Za-z_][A-Za-z0-9_]*)=("[^"]*"|[^ #]*) *#? ?(.*)$/  --\1 \2\t\3/p' <(sed -E '1,/^[^#]/{/^#/d}' "$0") |
        awk -F '\t' 'NF > 1 { printf "%-38s %s\n", $1, $2; next } { print }'
}

_parse_options_argument=
for _parse_options_word in "$@"; do
    if [ "${_parse_options_argument}" = --config ]; then
        [ -r "${_parse_options_word}" ] || _parse_options_fail "--config ${_parse_options_word}: no such file"
        # shellcheck disable=SC1090
        . "${_parse_options_word}"
        config=${_parse_options_word}
    fi
    _parse_options_argument=${_parse_options_word}
done

while [ $# -gt 0 ]; do
    case "$1" in
        --help | -h)
            _parse_options_help
            exit 0
            ;;
        --*=*)
            _parse_options_fail "$1: options are written --name value; write ${1%%=*} '${1#*=}'"
            ;;
        --?*)
            _parse_options_name=${1#--}
            _parse_options_name=${_parse_options_name//-/_}
            [[ ${_parse_options_name} =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || _parse_options_fail "$1: not an option's name"
            [ -n "${!_parse_options_name+set}" ] ||
                _parse_options_fail "unknown option $1; $(_parse_options_unknown "${_parse_options_name}")"
            [ $# -gt 1 ] || _parse_options_fail "$1 needs a value"
            # A forgotten value would swallow the option behind it.
            if [[ $2 =~ ^--([a-z_]+)$ ]] && [ -n "${!BASH_REMATCH[1]+set}" ]; then
                _parse_options_fail "$1 needs a value, but $2 follows"
            fi
            case "${!_parse_options_name}" in
                true | false)
                    [ "$2" = true ] || [ "$2" = false ] || _parse_options_fail "$1 $2: expected true or false"
                    ;;
            esac
            printf -v "${_parse_options_name}" '%s' "$2"
            shift 2
            ;;
        *) break ;;
    esac
done
unset _parse_options_argument _parse_options_word _parse_options_name
true
