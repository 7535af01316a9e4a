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
    outcome = world.train("--resume")  # or the folder would be refused
    assert len(outcome.errors.splitlines()) == 2
    assert "metrics.json (No space left on device)" in outcome.errors
    return outcome


@fault(
    done="a checkpoint cannot be written, the next one can",
    seen="cannot write checkpoint",
    code=0,
    left="checkpoints of iterations 1, 3; damaged model_0000001.pth",
)
def unwritable_checkpoint(world):
    world.train(SOLVER__MAX_ITER=1)
    (world.run / "model_0000001.pth").mkdir()
    outcome = world.train("--resume", SOLVER__MAX_ITER=3)
    assert "; training goes on" in outcome.output
    return outcome


@fault(
    done="the last checkpoint cannot be written",
    seen="cannot write checkpoint",
    code=1,
    left="checkpoints of iterations 1, 2; damaged model_final.pth",
)
def unwritable_last_checkpoint(world):
    world.train(SOLVER__MAX_ITER=1)
    (world.run / "model_final.pth").unlink()
    (world.run / "model_final.pth").mkdir()
    (world.run / "last_checkpoint").write_text("model_0000000.pth")
    return world.train("--resume")


@fault(
    done="results.json cannot be written, during training and at its end",
    seen="results.json: Is a directory; training goes on",
    code=1,
    left="checkpoints of iterations 1, 2",
)
def unwritable_results(world):
    (world.run / "results.json").mkdir(parents=True)
    outcome = world.train("--resume", DATASETS__TEST=("toy_val",), TEST__EVAL_PERIOD=1)
    assert outcome.errors.startswith("error: cannot write ")
    return outcome


@fault(
    done="pictures of an evaluation cannot be written",
    seen="no pictures of toy_val: cannot write",
    code=0,
    left="checkpoints of iterations 1, 2",
)
def unwritable_pictures(world):
    pictures = world.run / "inference" / "toy_val" / "pictures"
    pictures.parent.mkdir(parents=True)
    pictures.write_text("a file where the folder should be")
    outcome = world.train(DATASETS__TEST=("toy_val",))
    assert (world.run / "results.json").exists()
    return outcome
