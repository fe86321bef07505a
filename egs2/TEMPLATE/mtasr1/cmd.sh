# Where jobs run: cmd_backend=local (this machine) or slurm, from the environment or --cmd_backend.
# train_cmd: parallel work on the CPU; cuda_cmd: training; decode_cmd: decoding. Options common to all Slurm jobs of a
# site belong in the environment (SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_QOS …) or in conf/slurm.conf.
cmd_backend=${cmd_backend:-local}

case "${cmd_backend}" in
    local)
        train_cmd=utils/run.py
        cuda_cmd=utils/run.py
        decode_cmd=utils/run.py
        ;;
    slurm)
        train_cmd=utils/slurm.py
        cuda_cmd=utils/slurm.py
        decode_cmd=utils/slurm.py
        ;;
    *)
        echo "cmd.sh: cmd_backend=${cmd_backend} is not known; use local or slurm" >&2
        exit 1
        ;;
esac
export train_cmd cuda_cmd decode_cmd
