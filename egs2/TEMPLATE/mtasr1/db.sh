# Where the raw corpora are; the environment wins: CORPUS=/data/corpus ./run.sh
CORPUS=${CORPUS:-downloads/corpus}
