"""Running a model for long: training, checkpoints, evaluation, the processes of a job."""
