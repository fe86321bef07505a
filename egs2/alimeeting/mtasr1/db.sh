# Where the raw corpora are; the environment wins: ALIMEETING=/data/AliMeeting ./run.sh
ALIMEETING=${ALIMEETING:-downloads/AliMeeting}
# Further speech for simulated conversations (conf/simulate_sdr.yaml); empty: none.
AISHELL2=${AISHELL2:-}
LIBRISPEECH=${LIBRISPEECH:-}
# Folders of noise recordings (e.g. MUSAN) and of room impulse responses (e.g. OpenSLR 28) for the same.
NOISE=${NOISE:-}
RIRS=${RIRS:-}
