"""Training, checkpoints, evaluation and the processes of a job."""
