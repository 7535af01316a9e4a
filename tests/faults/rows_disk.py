"""Faults of the disk: files that cannot be written."""

from tests.faults.fault import fault

FULL = "/dev/full"


@fault(
    done="the disk is full for log.txt and metrics.json",
    seen="log.txt (No space left on device); the run goes on, what follows may be missing there",
    code=0,
    left="checkpoints of iterations 1, 2",
)
def full_log(world):
    world.run.mkdir()
    for name in ("log.txt", "metrics.json"):
        (world.run / name).symlink_to(FULL)
    outcome = world.train()
    assert len(outcome.errors.splitlines()) == 2
    assert "metrics.json (No space left on device)" in outcome.errors
    return outcome


@fault(
    done="a checkpoint cannot be written, the last one can",
    seen="cannot write checkpoint",
    code=0,
    left="checkpoints of iterations 2; damaged model_0000000.pth",
)
def unwritable_checkpoint(world):
    (world.run / "model_0000000.pth").mkdir(parents=True)
    outcome = world.train()
    assert "; training goes on" in outcome.output
    return outcome


@fault(
    done="the last checkpoint cannot be written",
    seen="cannot write checkpoint",
    code=1,
    left="checkpoints of iterations 1, 2; damaged model_final.pth",
)
def unwritable_last_checkpoint(world):
    (world.run / "model_final.pth").mkdir(parents=True)
    return world.train()


@fault(
    done="results.json cannot be written at the end of a training",
    seen="cannot write",
    code=1,
    left="checkpoints of iterations 1, 2; results.json",
)
def unwritable_results(world):
    (world.run / "results.json").mkdir(parents=True)
    return world.train(DATASETS__TEST=("toy_val",))


@fault(
    done="results.json cannot be written by an evaluation during training",
    seen="results.json: Is a directory; training goes on",
    code=1,
    left="checkpoints of iterations 1, 2; results.json",
)
def unwritable_results_of_a_period(world):
    (world.run / "results.json").mkdir(parents=True)
    return world.train(DATASETS__TEST=("toy_val",), TEST__EVAL_PERIOD=1)


@fault(
    done="pictures of an evaluation cannot be written",
    seen="no pictures of toy_val: cannot write",
    code=0,
    left="checkpoints of iterations 1, 2; results.json",
)
def unwritable_pictures(world):
    pictures = world.run / "inference" / "toy_val" / "pictures"
    pictures.parent.mkdir(parents=True)
    pictures.write_text("a file where the folder should be")
    return world.train(DATASETS__TEST=("toy_val",))
