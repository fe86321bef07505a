# Where the raw corpora are; the environment wins: ALIMEETING=/data/AliMeeting ./run.sh
ALIMEETING=${ALIMEETING:-downloads/AliMeeting}
# Further speech for simulated conversations (conf/simulate_sdr.yaml); empty: none.
AISHELL2=${AISHELL2:-}
LIBRISPEECH=${LIBRISPEECH:-}
# Folders of noise recordings (e.g. /data/musan/noise) and of room impulse responses (e.g. OpenSLR 28) for the same, or,
# where both lie in one, the files of it: NOISE='/data/noise_rir/noise*.wav' RIRS='/data/noise_rir/rir*.wav'
NOISE=${NOISE:-}
RIRS=${RIRS:-}
