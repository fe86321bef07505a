#!/usr/bin/env bash
# Multi-talker recognition of Mandarin in cars, one of AISHELL-5's far-field microphones.
set -euo pipefail
cd "$(dirname "$0")"

# SpeakerLM learns and is tested on clips of 40 to 50 s; they have a folder of their own.
clips=(--clip_policy no_overlap_cut)
case " $*" in
    *" --system speakerlm"*) clips=(--clip_policy random_40_50 --dumpdir dump/40_50) ;;
esac

./mtasr.sh \
    --system sctc \
    --recipe_lang zh \
    --train_set train_far \
    --valid_set dev_far \
    --test_sets aishell5_eval \
    "${clips[@]}" \
    --max_clip 50 \
    --enrolment true \
    "$@"
