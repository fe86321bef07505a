#!/usr/bin/env bash
# LibriSpeech, WHAM! and LibriMix' metadata to data directories <part>_<n>mix_<type>[_offset], and LibriSpeech itself.
set -euo pipefail

datadir=data               # the data directories are made in here
lang=en                    # language; the corpus is English
nj=1                       # parallel jobs
debug=false                # a few mixtures only
types=clean,both           # clean, both (with noise), single (one talker with noise)
conditions=plain,offset    # plain: all talkers begin at 0; offset: they begin one after the other
num_talkers=2,3            # Libri2Mix, Libri3Mix; both: the two together as well
parts=                     # of train_100,train_360,dev,test; default: those that are there, and all of LibriSpeech
offset_metadata=           # folders of CSV files with offsets, with commas between, beside those that LIBRIMIX has
draw_offsets=false         # draw the offsets of dev and test of three talkers where the published ones are missing
speed_noise=sox            # what makes training noise of 0.8 and 1.2 times the speed: sox, or soxr (not the same)
rate=16000                 # or 8000, with ./run.sh --fs 8000
mode=max                   # max: to the end of the longest talker; min: of the shortest
write=false                # write the audio; false: it is made while it is read
write_sources=false        # with write: each talker's signal and the noise, too
allow_problems=false       # go on when single mixtures cannot be made
. utils/parse_options.sh
. ./db.sh
. ./path.sh

[ "${lang}" = en ] || { echo "local/data.sh: --lang ${lang}: the corpus is English; leave --lang out" >&2; exit 1; }
# LibriSpeech, one talker at a time, is for the first training step and for enrolment.
# shellcheck disable=SC2086
python3 -m espnet_mt_llm.bin.prepare_librimix --librispeech "${LIBRISPEECH}" --wham "${WHAM}" --metadata "${LIBRIMIX}" \
    --out "${datadir}" --types ${types//,/ } --conditions ${conditions//,/ } --num_talkers ${num_talkers//,/ } \
    ${parts:+--parts ${parts//,/ }} ${offset_metadata:+--offset_metadata ${offset_metadata//,/ }} \
    --draw_offsets "${draw_offsets}" --rate "${rate}" --mode "${mode}" --speed_noise "${speed_noise}" \
    --write "${write}" --write_sources "${write_sources}" --prepare_librispeech true \
    --nj "${nj}" --debug "${debug}" --allow_problems "${allow_problems}"
