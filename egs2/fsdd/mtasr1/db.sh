# Where the raw corpora are; the environment wins: FSDD=/data/free-spoken-digit-dataset ./run.sh
FSDD=${FSDD:-downloads/free-spoken-digit-dataset}
