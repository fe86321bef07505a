# Where the raw corpora are; the environment wins: AISHELL5=/data/AISHELL-5 ./run.sh
AISHELL5=${AISHELL5:-downloads/AISHELL-5}
