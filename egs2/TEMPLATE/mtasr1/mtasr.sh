#!/usr/bin/env bash
# The stage driver of every recipe; a recipe's run.sh calls it with its own sets and configurations.
# usage: ./run.sh [--stage train] [--stop_stage score] [--system sctc] [options below]
# Stages, by number or name: 1 data, 2 simulate, 3 clips, 4 enroll, 5 tokens, 6 train, 7 decode, 8 score, 9 results,
# 10 pack.
# A finished stage whose commands, configurations and input files are what they were is skipped.
set -euo pipefail
shopt -s inherit_errexit nullglob

# What runs
stage=data                  # first stage
stop_stage=pack             # last stage
dry_run=false               # print the commands of the stages, run nothing
force=false                 # run the stages although nothing changed
debug=false                 # everything small, under debug/: the whole recipe in a minute or two
skip_data_prep=false        # skip stages 1-5
skip_train=false            # skip stage 6
skip_eval=false             # skip stages 7-9
skip_packing=false          # skip stage 10
# Sets and systems
system=sctc                 # which conf/<system>/ to train
train_set=                  # name of the training set
valid_set=                  # name of the validation set
test_sets=                  # names of the test sets, with spaces
lang=                       # language, default: the recipe's
recipe_lang=en              # language of the recipe; another --lang keeps its files under <lang>/
local_data_opts=            # further options of local/data.sh
# Audio, text, clips
fs=16000                    # samples per second
simulate_config=conf/simulate.yaml  # the sets that stage 2 simulates
allow_problems=false        # go on when single recordings cannot be used; they are listed in problems.tsv
clip_policy=whole           # how recorded sessions are cut into clips (make_clips --policy)
max_clip=50                 # longest clip in seconds
clip_args=                  # further options of cutting recorded sessions, e.g. "--min_clip 30 --seed 1"
token_type=                 # word, char or bpe; default by language
nbpe=500                    # number of units for token_type bpe
profile=                    # text normalisation; default by language
unit=                       # errors are counted in words, characters or both (word, char, mixed); default by language
enrolment=false             # list what speakers can be registered from (stage 4); a system that registers them asks for it
enrol_args=                 # further options of listing it, e.g. "--min 1.5"
# Training and decoding
train_args=                 # further options of the training command, e.g. "--max_epoch 3"
on_change=restart           # training step whose inputs changed: restart (the old one moves to exp/.old) or resume
inference_config=           # decoding configurations; default: conf/decode_*.yaml of the system or its task, and _match, _over
inference_args=             # further options of the decoding command
inference_step=             # training step whose model is decoded, scored and packed, e.g. 04; default: the last
gpu_inference=false         # decode on a GPU
score_args=                 # further options of scoring, e.g. "--sweep_diarization true"
# Machine
nj=                         # parallel jobs of data stages, default: number of cores
inference_nj=               # parallel jobs of decoding, default: nj
ngpu=0                      # GPUs for training
num_threads=                # CPU threads for training, default: number of cores, at most 8
cmd_backend=${cmd_backend:-local}  # local or slurm
python=python3              # Python interpreter
datadir=data                # data directories
dumpdir=dump                # clips
expdir=exp                  # models, decodings, scores

. utils/parse_options.sh
[ $# -eq 0 ] || { echo "mtasr.sh: '$1' is no option; see ./run.sh --help" >&2; exit 1; }
. ./path.sh
. ./cmd.sh
. ./db.sh
. ./data_stages.sh

names=(- data simulate clips enroll tokens train decode score results pack)
current=                    # the running stage
new=0 old=0                 # units of work of the running stage: done now, skipped
printing=${dry_run}

log() { printf '%(%H:%M:%S)T mtasr.sh: %s\n' -1 "$*"; }
fail() { echo "mtasr.sh: $*" >&2; exit 1; }

stage_number() { # NAME-OR-NUMBER OPTION
    local i
    if [[ $1 =~ ^[0-9]+$ ]]; then echo "$1"; return; fi
    for i in "${!names[@]}"; do
        if [ "${names[i]}" = "$1" ]; then echo "${i}"; return; fi
    done
    fail "--$2 $1: no such stage; stages: ${names[*]:1}"
}

command_line() { # OPTIONS: run.sh with them and those that choose the files
    local line="./run.sh $*"
    if ${debug}; then line+=" --debug true"; fi
    if [ "${lang}" != "${recipe_lang}" ]; then line+=" --lang ${lang}"; fi
    echo "${line}"
}

made_by() { # STAGE STAMP PATH [OPTIONS]: stop unless an earlier stage has finished making PATH
    if ${dry_run} || { [ -e "$2" ] && [ -e "$3" ]; }; then return; fi
    local why="is not there" there
    if [ -e "$3" ]; then why="is not finished"; fi
    if [ -e "$2" ] && [[ $1 == data || $1 == simulate ]]; then
        there=$(cd "${datadir}" && printf '%s ' */wav.scp | sed 's#/wav.scp##g')
        fail "stage ${current} needs $3; stage $(stage_number "$1" stage) ($1) has run and did not make it." \
            "It says why: $(command_line --stage "$1" --stop_stage "$1" --force true); or choose from what is there" \
            "with --train_set, --valid_set and --test_sets: ${there}"
    fi
    # Another system has sets and tokens of its own.
    if [ "${system}" != sctc ]; then set -- "$@" --system "${system}"; fi
    fail "stage ${current} needs $3, which ${why}; run stage $(stage_number "$1" stage) ($1) first:" \
        "$(command_line --stage "$1" --stop_stage "$1" "${@:4}")"
}

run() { # a command, or only its text
    if ${printing}; then
        printf '%q ' "$@"; echo
    else
        "$@"
    fi
}

one_job() { # NAME LOG COMMAND: here, where its output is seen, or on the cluster as one job of nj processes
    if ${printing} || [ "${cmd_backend}" = local ]; then
        run "${@:3}"
        return
    fi
    run ${train_cmd} --num-threads "${nj}" --name "$1" "$2" "${@:3}"
    grep -v '^#' "$2" || true
}

# STAMP FUNCTION ARGUMENTS: one piece of work on ${inputs[@]} that makes ${outputs[@]}, skipped when nothing changed
unit() {
    local stamp=$1 plan answer
    shift
    if ${dry_run}; then "$@"; return; fi
    # What does not change results does not belong into the plan: where it runs, and in how many jobs.
    plan=$(printing=true nj=N inference_nj=N num_threads=N ngpu=N train_cmd= cuda_cmd= decode_cmd= python=; "$@")
    answer=$(${python} -S -m espnet_mt_llm.bin.check_stamp --done "${stamp}" --plan "${plan}" --force "${force}" \
        --inputs "${inputs[@]}" --outputs "${outputs[@]}")
    if [ "${answer%% *}" = skip ]; then
        old=$((old + 1))
        return
    fi
    if [ "${answer}" != "continue is new" ]; then log "${stamp##*/}: ${answer#* }, runs again"; fi
    choice=${answer%% *}
    "$@"
    mv "${stamp}.started" "${stamp}"
    new=$((new + 1))
}

# A STEP of training is called <system>/<NN_task_what>, as its configuration conf/<system>/<NN_task_what>.yaml.

started_from() { # STEP: the steps of other systems that it starts from
    sed -nE 's#^[^\#]*\.\./([A-Za-z0-9_]+/[0-9]{2}_[A-Za-z0-9_]+)/.*#\1#p' "conf/$1.yaml" | sort -u
}

steps_of() { # SYSTEM [NAME]: its steps, up to that of this name; before each one those of other systems it starts from
    local file name from
    for file in "conf/$1"/[0-9][0-9]_*_*.yaml; do
        name=$(basename "${file}" .yaml)
        for from in $(started_from "$1/${name}"); do
            steps_of "${from%/*}" "${from#*/}"
        done
        echo "$1/${name}"
        if [ "${name}" = "${2:-}" ]; then break; fi
    done
}

stamp_of() { # STEP
    echo "${expdir}/.done/train.${1/\//.}"
}

set_of() { # STEP train|valid: the set that a training step names in its configuration, or else the run's
    local named default=$2_set
    named=$(sed -nE "s/^$2_set: *([A-Za-z0-9_.-]+).*/\1/p" "conf/$1.yaml")
    echo "${named:-${!default}}"
}

task_of() { # STEP: the task in NN_<task>_<what>, the longest name that there is a training command for
    local name=${1##*/}
    name=${name#*_}
    while [ ! -e "${MAIN_ROOT}/espnet_mt_llm/bin/train_${name}.py" ]; do
        [[ ${name} == *_* ]] || fail "conf/$1.yaml: no task is called so; name it NN_<task>_<what>.yaml," \
            "tasks: $(cd "${MAIN_ROOT}/espnet_mt_llm/bin" && printf '%s ' train_*.py | sed 's/train_//g; s/\.py//g')"
        name=${name%_*}
    done
    echo "${name}"
}

registers() { # STEP: does it register speakers?
    grep -qE '^registration: *(match|over|mixed)' "conf/$1.yaml"
}

hears_voices() { # STEP: does it learn from the embeddings of who talks?
    grep -q 'voice_weight:' "conf/$1.yaml"
}

names_of() { # STEP: the file that it draws names of registered speakers from, if any
    sed -nE '/^ *#/d; s/^(.*[{ ,])names: *([^ ,}]+).*/\2/p' "conf/$1.yaml"
}

own_llm() { # STEP: does its language model begin from a configuration, and need the tokenizer of stage 5?
    [ "$(task_of "$1")" = speech_llm ] || return 1
    ${debug} || ! awk '/^[a-z_]+:/ {key = $1} key == "llm_conf:" && /checkpoint:/ {found = 1} END {exit !found}' \
        "conf/$1.yaml"
}

train_step() { # STEP TASK TRAIN-SET VALID-SET
    local dir=${expdir}/$1 to_old options=()
    if ${debug}; then options=(--debug true); fi
    if own_llm "$1"; then options+=(--tokenizer "${llm_tokenizer}"); fi
    if ! ${printing} && [ "${choice}" = restart ] && [ "${on_change}" = restart ] && [ -e "${dir}" ]; then
        to_old=${expdir}/.old/$(date +%Y%m%d-%H%M%S)-$$/${1%/*}
        mkdir -p "${to_old}"
        mv "${dir}" "${to_old}/"
        log "the earlier ${dir} is now in ${to_old}; --on_change resume would have continued it"
    fi
    if ! ${printing}; then log "stage train: ${1#"${system}/"}, log: ${dir}/train.log"; fi
    # shellcheck disable=SC2086
    run ${cuda_cmd} --gpu "${ngpu}" --num-threads "${num_threads}" --name "${1#*/}" "${dir}/train.log" \
        ${python} -m "espnet_mt_llm.bin.train_$2" --config "conf/$1.yaml" \
        --token_list "${token_list}" --token_type "${token_type}" --profile "${profile}" --rate "${fs}" \
        --train_dir "${dumpdir}/$3" --valid_dir "${dumpdir}/$4" --output_dir "${dir}" \
        --ngpu "${ngpu}" "${options[@]}" ${train_args}
}

stage_train() {
    local set step task learns checks stamp from
    local -A before=()  # of each system the step before
    for step in "${steps[@]}"; do
        for set in $(set_of "${step}" train) $(set_of "${step}" valid); do
            made_by clips "${dumpdir}/.done/clips.${set}" "${dumpdir}/${set}/supervision"
        done
    done
    made_by tokens "${datadir}/.done/tokens.${token_type}" "${token_list}"
    for step in "${steps[@]}"; do
        stamp=$(stamp_of "${step}")
        # Another system that this one starts from is trained where it is not; by itself it may have other options.
        if [ "${step%/*}" != "${system}" ] && [ -e "${stamp}" ] && ! ${dry_run}; then continue; fi
        task=$(task_of "${step}") learns=$(set_of "${step}" train) checks=$(set_of "${step}" valid)
        # A step starts from what the one before it has learnt: when that ran again, this one does.
        # shellcheck disable=SC2207
        inputs=("conf/${step}.yaml" "${token_list}" $(names_of "${step}"))
        for from in ${before[${step%/*}]:-} $(started_from "${step}"); do inputs+=("$(stamp_of "${from}")"); done
        if own_llm "${step}"; then inputs+=("${llm_tokenizer}"); fi
        inputs+=("${dumpdir}/${learns}" "${dumpdir}/${checks}")
        outputs=("${expdir}/${step}/train.log")
        unit "${stamp}" train_step "${step}" "${task}" "${learns}" "${checks}"
        before[${step%/*}]=${step}
    done
}

decode_set() { # SET CONFIGURATION TASK
    local dir=${model_dir}/$(basename "$2" .yaml)/$1 options=() launch=(${decode_cmd})
    if ${gpu_inference}; then options=(--device cuda) launch=(${cuda_cmd} --gpu 1); fi
    # shellcheck disable=SC2086
    run "${launch[@]}" --name decode "JOB=1:${inference_nj}" "${dir}/log/decode.JOB.log" \
        ${python} -m "espnet_mt_llm.bin.decode_$3" --config "$2" --model_dir "${model_dir}" --data_dir "${dumpdir}/$1" \
        --out_dir "${dir}" --job JOB --num_jobs "${inference_nj}" "${options[@]}" ${inference_args}
    # Which sets were asked for together is no part of the plan.
    run ${python} -m espnet_mt_llm.bin.merge_decode --out_dir "${dir}" --num_jobs "${inference_nj}" \
        --command "$(command_line --system "${system}" --inference_config "$2" \
            $(${printing} || echo "--test_sets $1") \
            $([ "${system}/${inference_step}" = "${steps[-1]}" ] || echo "--inference_step ${inference_step%%_*}") \
            ${train_args:+--train_args "'${train_args}'"} ${inference_args:+--inference_args "'${inference_args}'"})"
}

stage_decode() {
    local set config task trained=${expdir}/.done/train.${system}.${inference_step}
    task=$(task_of "${system}/${inference_step}")
    made_by train "${trained}" "${model_dir}"
    for config in ${inference_config}; do
        [ -e "${config}" ] || fail "${config}: no such file; give --inference_config"
        for set in ${test_sets}; do
            made_by clips "${dumpdir}/.done/clips.${set}" "${dumpdir}/${set}/supervision"
            inputs=("${config}" "${trained}" "${dumpdir}/${set}")
            outputs=("${model_dir}/$(basename "${config}" .yaml)/${set}/hyp.seglst.json")
            unit "${expdir}/.done/decode.$(tag_of "${config}" "${set}")" decode_set "${set}" "${config}" "${task}"
        done
    done
}

tag_of() { # CONFIGURATION SET
    echo "${system}.${inference_step}.$(basename "$1" .yaml).$2"
}

score_set() { # SET DECODE-DIR
    # shellcheck disable=SC2086
    run ${python} -m espnet_mt_llm.bin.score_decode --ref "${dumpdir}/$1" --hyp "$2" \
        --unit "${unit}" --profile "${profile}" --nj "${nj}" ${score_args}
}

stage_score() {
    local set config tag dir
    for config in ${inference_config}; do
        for set in ${test_sets}; do
            tag=$(tag_of "${config}" "${set}") dir=${model_dir}/$(basename "${config}" .yaml)/${set}
            made_by decode "${expdir}/.done/decode.${tag}" "${dir}/hyp.seglst.json"
            inputs=("${dir}/hyp.seglst.json" "${dir}/hyp.rttm" "${dir}/utt2num_spk" "${dir}/decode.json")
            inputs+=("${dumpdir}/${set}/supervision")
            outputs=("${dir}/score.json")
            unit "${expdir}/.done/score.${tag}" score_set "${set}" "${dir}"
        done
    done
}

make_page() {
    run ${python} -m espnet_mt_llm.bin.make_results --recipe . --exp "${expdir}" --dump "${dumpdir}" \
        --out_readme "${top}README.md" --out_json "${top}results.json" --out_html "${expdir}/results.html"
}

stage_results() {
    local set config tag
    for config in ${inference_config}; do
        for set in ${test_sets}; do
            tag=$(tag_of "${config}" "${set}")
            made_by score "${expdir}/.done/score.${tag}" "${model_dir}/$(basename "${config}" .yaml)/${set}/score.json"
        done
    done
    # The page shows every system and decoding there is, not only the ones of this run.
    inputs=("${expdir}"/*/*/*/*/score.json "${expdir}"/*/*/history.json)
    outputs=("${top}README.md" "${top}results.json" "${expdir}/results.html")
    unit "${expdir}/.done/results" make_page
    # make_results has shown the table; when nothing is new, it is shown all the same.
    if ! ${dry_run} && [ "${new}" -eq 0 ]; then
        ${python} -m espnet_mt_llm.bin.show_results --exp "${expdir}" --page "${PWD}/${expdir}/results.html"
    fi
}

make_package() {
    run ${python} -m espnet_mt_llm.bin.pack_model --model_dir "${model_dir}" --out "${model_dir}.zip"
}

stage_pack() {
    local trained=${expdir}/.done/train.${system}.${inference_step}
    made_by train "${trained}" "${model_dir}"
    inputs=("${trained}" "${model_dir}"/*/*/score.json) outputs=("${model_dir}.zip")
    unit "${expdir}/.done/pack.${system}.${inference_step}" make_package
}

skipped() { # NUMBER: by an option?
    if { [ "$1" -le 5 ] && ${skip_data_prep}; } || { [ "$1" -eq 6 ] && ${skip_train}; } ||
        { [ "$1" -ge 7 ] && [ "$1" -le 9 ] && ${skip_eval}; } || { [ "$1" -eq 10 ] && ${skip_packing}; }; then
        return 0
    fi
    return 1
}

run_stage() { # NUMBER
    local began=${SECONDS} note
    current=${names[$1]} new=0 old=0
    if ${dry_run}; then echo "# stage $1: ${current}"; fi
    "stage_${current}"
    if ${dry_run}; then return; fi
    note="$((SECONDS - began)) s"
    if [ $((new + old)) -eq 0 ]; then return; fi
    if [ "${new}" -eq 0 ]; then
        log "stage $1 (${current}): nothing changed, skipped"
    elif [ "${old}" -eq 0 ]; then
        log "stage $1 (${current}): done in ${note}"
    else
        log "stage $1 (${current}): done in ${note}, ${old} of $((new + old)) parts had not changed"
    fi
}

said_why() { # on exit: a failure names its stage, and how to go on
    local code=$?
    if [ "${code}" -ne 0 ] && [ -n "${current}" ]; then
        echo "mtasr.sh: stopped in stage ${current} (exit code ${code});" \
            "what is finished is kept, run the same command again" >&2
    fi
}

# Languages: what is not given follows from the language; another language than the recipe's has its own files.
lang=${lang:-${recipe_lang}}
case "${lang}" in
    zh) defaults=(char zh_char char) ;;
    *) defaults=(word en_libri word) ;;
esac
token_type=${token_type:-${defaults[0]}} profile=${profile:-${defaults[1]}} unit=${unit:-${defaults[2]}}
top=
if ${debug}; then top=debug/; fi
if [ "${lang}" != "${recipe_lang}" ]; then top+=${lang}/; fi
datadir=${top}${datadir} dumpdir=${top}${dumpdir} expdir=${top}${expdir}
token_list=${datadir}/token_list/${token_type}/tokens.txt
llm_tokenizer=${datadir}/llm_tokenizer/${token_type}

cores=$(env -u OMP_NUM_THREADS nproc)
nj=${nj:-${cores}}
inference_nj=${inference_nj:-${nj}}
num_threads=${num_threads:-$((cores < 8 ? cores : 8))}
first=$(stage_number "${stage}" stage)
last=$(stage_number "${stop_stage}" stop_stage)
[ "${first}" -ge 1 ] && [ "${first}" -le 10 ] || fail "--stage ${stage}: stages are 1 to 10"
[ "${first}" -le "${last}" ] || fail "--stage ${stage} comes after --stop_stage ${stop_stage}"
corpora=
choice=continue
# The launchers stop their jobs when this script is gone.
export MTASR_PID=$$

for name in train_set valid_set test_sets; do
    [ -n "${!name}" ] || fail "--${name} is not set; run.sh gives it"
done
for name in nj inference_nj num_threads nbpe; do
    [[ ${!name} =~ ^[0-9]*[1-9][0-9]*$ ]] || fail "--${name} ${!name}: expected a whole number, 1 or more"
done
[[ ${max_clip} =~ ^[0-9]*[1-9][0-9]*(\.[0-9]+)?$ ]] || fail "--max_clip ${max_clip}: expected seconds, 1 or more"
[[ ${ngpu} =~ ^[0-9]+$ ]] || fail "--ngpu ${ngpu}: expected a whole number"
case "${simulate_config}" in
    "" | none | conf/simulate.yaml) ;; # a recipe without the last one simulates nothing
    *) [ -e "${simulate_config}" ] || fail "--simulate_config ${simulate_config}: no such file; use none, or one of" \
        "$(echo conf/simulate*.yaml)" ;;
esac
case "${unit}" in word | char | mixed) ;; *) fail "--unit ${unit}: use word, char or mixed" ;; esac
[ "${on_change}" = restart ] || [ "${on_change}" = resume ] || fail "--on_change ${on_change}: use restart or resume"
steps=("conf/${system}"/[0-9][0-9]_*_*.yaml)
others=(conf/*/[0-9][0-9]_*_*.yaml)
[ ${#steps[@]} -gt 0 ] || { [ "${last}" -lt 6 ] && [ ${#others[@]} -eq 0 ]; } ||
    fail "--system ${system}: no conf/${system}/NN_<task>_<what>.yaml; systems of this recipe: $(cd conf && echo */)"
if [ ${#steps[@]} -gt 0 ]; then
    # shellcheck disable=SC2046
    read -r -a steps <<<"$(once $(steps_of "${system}"))"
    chosen=("conf/${system}/${inference_step:-${steps[-1]#*/}}"*.yaml)
    [ ${#chosen[@]} -eq 1 ] || fail "--inference_step ${inference_step}: no such step of ${system}, or several;" \
        "steps: $(cd "conf/${system}" && echo [0-9][0-9]_*.yaml)"
    inference_step=$(basename "${chosen[0]}" .yaml)
    model_dir=${expdir}/${system}/${inference_step}
    if [ -z "${inference_config}" ]; then
        inference_config=conf/decode_${system}
        if [ ! -e "${inference_config}.yaml" ]; then
            inference_config=conf/decode_$(task_of "${system}/${inference_step}")
        fi
        if registers "${system}/${inference_step}"; then
            inference_config="${inference_config}.yaml ${inference_config}_match.yaml ${inference_config}_over"
        fi
        inference_config+=.yaml
    fi
fi

trap said_why EXIT
for ((number = first; number <= last && number <= 10; number++)); do
    if ! skipped "${number}"; then run_stage "${number}"; fi
done
current=
if ! ${dry_run}; then log "finished in ${SECONDS} s"; fi
