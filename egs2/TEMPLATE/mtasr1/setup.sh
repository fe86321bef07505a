#!/usr/bin/env bash
# Make a new recipe directory: egs2/TEMPLATE/mtasr1/setup.sh egs2/<corpus>/mtasr1
# What all recipes share is linked, so that a fix reaches every recipe; what a recipe owns (run.sh, db.sh,
# local/data.sh, its configurations) is copied, once.
set -euo pipefail
. "$(dirname "$0")/../../../utils/parse_options.sh"

template=$(cd "$(dirname "$0")" && pwd)
root=$(cd "${template}/../../.." && pwd)
if [ $# -ne 1 ] || [[ ! $1 =~ (^|/)egs2/[a-z0-9_]+/mtasr1/?$ ]]; then
    echo "usage: egs2/TEMPLATE/mtasr1/setup.sh egs2/<corpus>/mtasr1" >&2
    exit 1
fi
corpus=$(basename "$(dirname "$1")")
recipe=${root}/egs2/${corpus}/mtasr1

mkdir -p "${recipe}/conf" "${recipe}/local"
for name in mtasr.sh data_stages.sh path.sh cmd.sh; do
    ln -sfn "../../TEMPLATE/mtasr1/${name}" "${recipe}/${name}"
done
ln -sfn ../../../TEMPLATE/mtasr1/conf/slurm.conf "${recipe}/conf/slurm.conf"
ln -sfn ../../../utils "${recipe}/utils"
for name in run.sh db.sh local/data.sh; do
    [ -e "${recipe}/${name}" ] || cp "${template}/${name}" "${recipe}/${name}"
done
echo "${recipe} is there; now write run.sh, db.sh, local/data.sh and conf/<system>/01_<task>_<what>.yaml"
