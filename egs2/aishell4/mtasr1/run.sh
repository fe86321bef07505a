#!/usr/bin/env bash
# Multi-talker recognition of Mandarin meetings of 4 to 8 speakers, one channel of AISHELL-4's array.
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
    --train_set train \
    --valid_set dev \
    --test_sets test \
    "${clips[@]}" \
    --max_clip 50 \
    --enrolment true \
    "$@"
