"""The private test cluster: a real Slurm, run by the current user, on this machine only."""
