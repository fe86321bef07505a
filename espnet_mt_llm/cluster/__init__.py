"""The launchers behind utils/run.py and utils/slurm.py, and the stamps of finished stages; standard library only."""
