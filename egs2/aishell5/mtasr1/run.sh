#!/usr/bin/env bash
# Multi-talker recognition of Mandarin in cars, one of AISHELL-5's far-field microphones.
set -euo pipefail
cd "$(dirname "$0")"

./mtasr.sh \
    --system sctc \
    --recipe_lang zh \
    --train_set train_far \
    --valid_set dev_far \
    --test_sets aishell5_eval \
    --clip_policy no_overlap_cut \
    --max_clip 50 \
    --enrolment true \
    "$@"
