#!/usr/bin/env bash
# Multi-talker recognition of Mandarin meetings of 4 to 8 speakers, one channel of AISHELL-4's array.
set -euo pipefail
cd "$(dirname "$0")"

./mtasr.sh \
    --system sctc \
    --recipe_lang zh \
    --train_set train \
    --valid_set dev \
    --test_sets test \
    --clip_policy no_overlap_cut \
    --max_clip 50 \
    --enrolment true \
    "$@"
