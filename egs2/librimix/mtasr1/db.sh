# Where the raw corpora are; the environment wins: LIBRISPEECH=/data/LibriSpeech ./run.sh
LIBRISPEECH=${LIBRISPEECH:-downloads/LibriSpeech}
# WHAM! noise; without it the clean conditions are made all the same.
WHAM=${WHAM:-downloads/wham_noise}
# metadata/ of the LibriMix repository: Libri2Mix/*.csv, Libri3Mix/*.csv and, if there, Libri3Mix_offset/*.csv
LIBRIMIX=${LIBRIMIX:-downloads/LibriMix/metadata}
