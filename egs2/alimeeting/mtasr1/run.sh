#!/usr/bin/env bash
# Multi-talker recognition of Mandarin meetings, one far-field channel of AliMeeting.
set -euo pipefail
cd "$(dirname "$0")"

./mtasr.sh \
    --system sctc \
    --recipe_lang zh \
    --train_set train_far \
    --valid_set eval_far \
    --test_sets "eval_far test_far" \
    --clip_policy no_overlap_cut \
    --max_clip 50 \
    --enrolment true \
    "$@"
