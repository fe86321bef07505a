#!/usr/bin/env bash
# Multi-talker recognition of LibriMix: two and three talkers, noisy, delayed onsets.
set -euo pipefail
cd "$(dirname "$0")"

./mtasr.sh \
    --system sctc \
    --recipe_lang en \
    --token_type bpe \
    --nbpe 1000 \
    --train_set train_100_23mix_both_offset \
    --valid_set dev_23mix_both_offset \
    --test_sets "dev_2mix_both_offset test_2mix_both_offset dev_3mix_both_offset test_3mix_both_offset" \
    "$@"
