# Where the raw corpora are; the environment wins: LIBRISPEECH=/data/LibriSpeech ./run.sh
LIBRISPEECH=${LIBRISPEECH:-downloads/LibriSpeech}
# WHAM! noise; without it the clean conditions are made all the same.
WHAM=${WHAM:-downloads/wham_noise}
# metadata/ of the LibriMix repository: Libri2Mix/*.csv, Libri3Mix/*.csv; in or beside it the published offsets:
# metadta_Libri2Mix_offset/*.csv of ESPnet, metadta_Libri3Mix_offset/*.csv of hshi-speech/LibriMix-repo (README.md)
LIBRIMIX=${LIBRIMIX:-downloads/LibriMix/metadata}
