# Sourced by mtasr.sh: stages 1 to 5, from the corpus to clips and tokens. Options, unit(), run(), made_by() and the names
# of the training steps are the driver's.

simulation_of() { # SET: what makes its mixtures, a configuration by its name or the data stage; nothing: none are made
    local config
    for config in "${simulate_config}" conf/simulate*.yaml; do
        if [ -e "${config}" ] && grep -q "^ *$1 *:" "${config}"; then
            basename "${config}" .yaml
            return
        fi
    done
    if [ -e "${datadir}/$1/mixtures.jsonl" ]; then echo data; fi
}

clip_sets() { # every set that is cut into clips; of those that training steps name, the ones that are there
    local step set
    # shellcheck disable=SC2086
    once ${train_set} ${valid_set} ${test_sets} $(for step in "${steps[@]}"; do
        for set in $(set_of "${step}" train) $(set_of "${step}" valid); do
            if ${dry_run} || [ -e "${datadir}/${set}/wav.scp" ]; then echo "${set}"; fi
        done
    done)
}

once() { # WORDS: each of them once, in their order
    local word words=" "
    for word in "$@"; do
        [[ ${words} == *" ${word} "* ]] || words+="${word} "
    done
    echo "${words}"
}

data_dirs() { # simulated|recorded: the data directories of this kind
    local dir
    for dir in "${datadir}"/*/; do
        dir=${dir%/}
        [ -e "${dir}/wav.scp" ] || continue
        if [ "$1" = simulated ] && [ -e "${dir}/mixtures.jsonl" ]; then echo "${dir}"; fi
        if [ "$1" = recorded ] && [ ! -e "${dir}/mixtures.jsonl" ]; then echo "${dir}"; fi
    done
}

make_data() {
    local options=()
    # Corpora of recordings know the option; one that is made here has no recordings that could be bad.
    if grep -q '^allow_problems=' local/data.sh; then options=(--allow_problems "${allow_problems}"); fi
    # shellcheck disable=SC2086
    one_job data "${datadir}/log/data.log" local/data.sh --datadir "${datadir}" --lang "${lang}" --nj "${nj}" \
        --debug "${debug}" "${options[@]}" ${local_data_opts}
    if ${printing}; then
        run utils/validate_data_dir.sh "${datadir}/<each set>"
        return
    fi
    local sets
    mapfile -t sets < <(data_dirs recorded)
    [ ${#sets[@]} -gt 0 ] || fail "local/data.sh made no directory with a wav.scp in ${datadir}"
    run utils/validate_data_dir.sh "${sets[@]}"
}

stage_data() {
    inputs=(local/* db.sh) outputs=("${datadir}")
    local variable
    # Which corpus was used counts as an option: its variable may come from the environment.
    for variable in $(grep -oE '^[A-Z0-9_]+' db.sh); do
        corpora+="${variable}=${!variable:-} "
    done
    unit "${datadir}/.done/data" with_corpora make_data
}

with_corpora() { # the corpora belong to the plan
    if ${printing}; then echo "# ${corpora:-}"; fi
    "$@"
}

make_simulation() {
    local dir sets=("${datadir}/<each set whose audio is written>") options=()
    if ${allow_problems}; then options=(--allow_problems true); fi
    if [ -e "${simulate_config}" ]; then
        one_job draw "${datadir}/log/draw_mixtures.log" ${python} -m espnet_mt_llm.bin.draw_mixtures \
            --config "${simulate_config}" --data_dir "${datadir}" --debug "${debug}" --nj "${nj}" "${options[@]}"
    fi
    if ! ${printing}; then mapfile -t sets < <(data_dirs simulated); fi
    for dir in "${sets[@]}"; do
        # A set that is made while it is read has commands, ending in a pipe sign, instead of files.
        if ! ${printing} && head -n 1 "${dir}/wav.scp" | grep -q '| *$'; then continue; fi
        run ${train_cmd} --name write_mixtures "JOB=1:${nj}" "${dir}/log/write_mixtures.JOB.log" \
            ${python} -m espnet_mt_llm.bin.write_mixtures --data_dir "${dir}" --job JOB --num_jobs "${nj}" \
            "${options[@]}"
        if ${allow_problems}; then
            run ${python} -m espnet_mt_llm.bin.write_mixtures --data_dir "${dir}" --leave_out_missing true
        fi
    done
    run utils/validate_data_dir.sh "${sets[@]}"
}

stage_simulate() {
    local recorded ready maker=data
    mapfile -t ready < <(data_dirs simulated)
    if [ ! -e "${simulate_config}" ] && [ ${#ready[@]} -eq 0 ]; then
        log "stage simulate: no ${simulate_config}, nothing to do"
        return
    fi
    made_by data "${datadir}/.done/data" "${datadir}"
    mapfile -t recorded < <(data_dirs recorded)
    # Where the first stage has made the mixtures' manifests, its stamp stands for them.
    inputs=("${recorded[@]}")
    if [ -e "${simulate_config}" ]; then
        inputs+=("${simulate_config}") maker=$(basename "${simulate_config}" .yaml)
    else
        inputs+=("${datadir}/.done/data")
    fi
    outputs=("${datadir}")
    unit "${datadir}/.done/simulate.${maker}" make_simulation
}

make_clips() { # SET STAMP
    local policy=${clip_policy} how=${clip_args}
    # A mixture is a clip already.
    if [ -n "$(simulation_of "$1")" ]; then policy=whole how=; fi
    # What its stage has finished was checked there; a directory made by hand is checked here.
    if ${printing} || [ ! -e "$2" ]; then run utils/validate_data_dir.sh "${datadir}/$1"; fi
    # shellcheck disable=SC2086
    run ${train_cmd} --name clips "JOB=1:${nj}" "${dumpdir}/log/make_clips_$1.JOB.log" \
        ${python} -m espnet_mt_llm.bin.make_clips --data_dir "${datadir}/$1" --out_dir "${dumpdir}/$1" \
        --policy "${policy}" --max_clip "${max_clip}" --rate "${fs}" --job JOB --num_jobs "${nj}" \
        --allow_problems "${allow_problems}" ${how}
    if [ "${nj}" != 1 ]; then
        run ${python} -m espnet_mt_llm.bin.merge_clips --out_dir "${dumpdir}/$1" --num_jobs "${nj}" \
            --allow_problems "${allow_problems}"
    fi
}

stage_clips() {
    local set maker stamp options
    for set in $(clip_sets); do
        maker=data stamp=${datadir}/.done/data options=()
        if [ -n "$(simulation_of "${set}")" ]; then
            maker=simulate stamp=${datadir}/.done/simulate.$(simulation_of "${set}")
            [[ ${stamp} == *.simulate || ${stamp} == *.data ]] || options=(--simulate_config "conf/${stamp##*.}.yaml")
        fi
        # A directory made by hand has no stamp; one that its stage was stopped in has an unfinished one.
        if [ -e "${stamp}.started" ] || [ ! -e "${datadir}/${set}/wav.scp" ]; then
            made_by "${maker}" "${stamp}" "${datadir}/${set}/wav.scp" "${options[@]}"
        fi
        inputs=("${datadir}/${set}") outputs=("${dumpdir}/${set}/supervision")
        unit "${dumpdir}/.done/clips.${set}" make_clips "${set}" "${stamp}"
    done
    if [ "${new}" -gt 0 ]; then
        local dirs
        read -r -a dirs <<<"$(clip_sets)"
        ${python} -m espnet_mt_llm.bin.show_statistics "${dirs[@]/#/${dumpdir}/}"
    fi
}

drawn_from() { # SET: whether who is registered is drawn anew in training, not chosen once as for what is decoded
    local step
    case " ${test_sets} " in *" $1 "*) return 1 ;; esac
    for step in "${steps[@]}"; do
        if [ "$1" = "$(set_of "${step}" train)" ]; then return 0; fi
    done
    [ "$1" = "${train_set}" ]
}

make_enrolment() { # SET
    local options=()
    if drawn_from "$1"; then options=(--registration false); fi
    # shellcheck disable=SC2086
    run ${python} -m espnet_mt_llm.bin.make_enrolment --data_dir "${datadir}/$1" --dump_dir "${dumpdir}/$1" \
        "${options[@]}" ${enrol_args}
}

enrolment_sets() { # every set whose speakers are enrolled: by the option, and for steps that need it
    local step sets=
    if ${enrolment}; then sets="${train_set} ${valid_set} ${test_sets}"; fi
    for step in "${steps[@]}"; do
        if registers "${step}" || hears_voices "${step}" || [ "$(task_of "${step}")" = speaker ]; then
            sets+=" $(set_of "${step}" train) $(set_of "${step}" valid) ${test_sets}"
        fi
    done
    # shellcheck disable=SC2086
    once ${sets}
}

stage_enroll() {
    local set
    if [ -z "$(enrolment_sets)" ]; then
        log "stage enroll: no speakers are registered, nothing to do"
        return
    fi
    for set in $(enrolment_sets); do
        made_by clips "${dumpdir}/.done/clips.${set}" "${dumpdir}/${set}/supervision"
        inputs=("${datadir}/${set}" "${dumpdir}/${set}/supervision") outputs=("${dumpdir}/${set}/enrolment")
        if ! drawn_from "${set}"; then
            outputs+=("${dumpdir}/${set}/registration" "${dumpdir}/${set}/spk2enrolment")
        fi
        unit "${dumpdir}/.done/enrolment.${set}" make_enrolment "${set}"
    done
}

make_tokens() {
    run ${python} -m espnet_mt_llm.bin.make_token_list --supervision "${dumpdir}/${train_set}/supervision" \
        --token_type "${token_type}" --nbpe "${nbpe}" --profile "${profile}" --out "${token_list}"
}

make_llm_tokenizer() {
    local size=()
    if [ "${token_type}" = bpe ]; then size=(--vocab_size "${nbpe}"); fi
    run ${python} -m espnet_mt_llm.bin.make_llm_tokenizer --supervision "${dumpdir}/${train_set}/supervision" \
        --kind "${token_type}" --profile "${profile}" --out "${llm_tokenizer}" "${size[@]}"
}

stage_tokens() {
    local step
    made_by clips "${dumpdir}/.done/clips.${train_set}" "${dumpdir}/${train_set}/supervision"
    inputs=("${dumpdir}/${train_set}/supervision") outputs=("${token_list}")
    unit "${datadir}/.done/tokens.${token_type}" make_tokens
    for step in "${steps[@]}"; do
        if own_llm "${step}"; then
            outputs=("${llm_tokenizer}/tokenizer.json")
            unit "${datadir}/.done/llm_tokenizer.${token_type}" make_llm_tokenizer
            break
        fi
    done
}
