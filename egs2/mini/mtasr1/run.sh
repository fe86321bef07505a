#!/usr/bin/env bash
# Multi-talker recognition of synthetic speech that this recipe makes itself; --lang zh for Mandarin.
set -euo pipefail
cd "$(dirname "$0")"

# A system that writes down whole conversations is tested on conversations.
test_sets="test_1mix test_2mix test_3mix"
case " $*" in
    *" --system dual"*) test_sets=test_conv ;;
    *" --system speakerlm"*) test_sets="test_conv test_conv_tracts" ;; # here others are registered, too
esac

./mtasr.sh \
    --system sctc \
    --recipe_lang en \
    --train_set train_mix \
    --valid_set dev_mix \
    --test_sets "${test_sets}" \
    --enrol_args "--min 1.2" \
    "$@"
