#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "$0")"

./mtasr.sh \
    --system sctc \
    --recipe_lang en \
    --train_set train \
    --valid_set dev \
    --test_sets "test" \
    "$@"
