"""The JOB=1:N launchers, local and Slurm."""
