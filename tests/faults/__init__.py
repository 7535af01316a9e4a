"""The table of faults: what is done to a run, what is seen, the exit code, what is left on disk.

Rows are functions in ``rows_*.py`` that do something to a :class:`tests.faults.world.World`, with
what must come of it declared above them::

    @fault(
        done="last_checkpoint is empty, --resume",
        seen="last_checkpoint is empty",
        code=0,
        left="checkpoints of iterations 2, 4; results",
    )
    def empty_last_checkpoint(world):
        world.train(SOLVER__MAX_ITER=2)
        (world.run / "last_checkpoint").write_text("")
        return world.train("--resume", SOLVER__MAX_ITER=4)

``pytest tests/faults`` checks every row; ``python -m tests.faults`` prints the table with counts.
"""
