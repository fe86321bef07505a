# Where the raw corpora are; the environment wins: AISHELL4=/data/aishell4 ./run.sh
AISHELL4=${AISHELL4:-downloads/aishell4}
