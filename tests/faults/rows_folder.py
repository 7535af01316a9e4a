"""Faults of the run's folder: former runs in it, other jobs at work in it."""

import signal
from dataclasses import replace

from tests.faults.fault import fault
from tests.faults.world import EVALUATED, LONG


@fault(
    done="a second training in the folder of a first one",
    seen="has a run: continue it with --resume, choose another OUTPUT_DIR",
    code=1,
    left="checkpoints of iterations 1, 2; all files as they were",
)
def second_training(world):
    return unchanged(world, lambda: world.train(SOLVER__MAX_ITER=1))


@fault(
    done="a second training in the folder of a first one, --overwrite",
    seen="Training from iteration 0 to 1",
    code=0,
    left="checkpoints of iterations 1",
)
def overwritten(world):
    assert world.train().code == 0
    return world.train("--overwrite", SOLVER__MAX_ITER=1)


@fault(
    done="--overwrite, but the data are missing",
    seen="data set toy_train not found",
    code=1,
    left="checkpoints of iterations 1, 2; all files as they were",
)
def overwritten_in_vain(world):
    empty = world.folder / "empty"
    empty.mkdir()
    return unchanged(world, lambda: replace(world, scenes=empty).train("--overwrite"))


@fault(
    done="--overwrite of the folder that MODEL.WEIGHTS is in",
    seen="--overwrite would remove MODEL.WEIGHTS",
    code=1,
    left="checkpoints of iterations 1, 2; all files as they were",
)
def overwritten_weights(world):
    weights = world.run / "model_final.pth"
    return unchanged(world, lambda: world.train("--overwrite", MODEL__WEIGHTS=weights))


@fault(
    done="--dry-run in the folder of a run",
    seen="has a run: continue it with --resume",
    code=1,
    left="checkpoints of iterations 1, 2; all files as they were",
)
def rehearsed(world):
    return unchanged(world, lambda: world.train("--dry-run"))


@fault(
    done="--eval-only in the folder of a run, twice",
    seen="run/evaluation-2/results.json",
    code=0,
    left="checkpoints of iterations 1, 2; all files as they were",
)
def evaluated(world):
    def evaluate_twice():
        weights = {"MODEL__WEIGHTS": world.run / "model_final.pth"}
        world.train("--eval-only", **EVALUATED, **weights)
        return world.train("--eval-only", **EVALUATED, **weights)

    return unchanged(world, evaluate_twice)


@fault(
    done="--eval-only --overwrite",
    seen="an evaluation never replaces results",
    code=1,
    left="nothing",
)
def evaluated_over(world):
    return world.train("--eval-only", "--overwrite")


@fault(
    done="--resume while the run is at work",
    seen="is in use by process",
    code=1,
    left="a log",
)
def two_at_once(world):
    first = world.start("train", **LONG)
    first.wait_for("iter 20/")
    (world.run / "metrics.json").unlink()
    second = world.train("--resume", **LONG)
    first.kill()
    first.wait()
    return second


@fault(
    done="two trainings start in one new folder; the second one is slower to load",
    seen="has a run: continue it with --resume",
    code=1,
    left="checkpoints of iterations 1, 2",
)
def quicker_training(world):
    slower = world.start("train")
    slower.wait_for("has random weights")  # after it has looked for a run
    slower.kill(signal.SIGSTOP)
    assert world.train().code == 0
    slower.kill(signal.SIGCONT)
    return world.finish(slower)


@fault(
    done="kill -9, then --resume at once, with a data loader worker left",
    seen="No checkpoint to resume from",
    code=0,
    left="checkpoints of iterations 1",
)
def lock_of_a_killed_run(world):
    first = world.start("train", **LONG, DATALOADER__NUM_WORKERS=1)
    first.wait_for("iter 20/")
    first.kill()
    first.wait()
    return world.train("--resume", SOLVER__MAX_ITER=1)


@fault(
    done="OUTPUT_DIR is a file",
    seen="cannot write",
    code=1,
    left="the file as it was",
)
def file_as_folder(world):
    world.run.write_text("a file")
    outcome = world.train()
    same = world.run.read_text() == "a file"
    return replace(outcome, left="the file as it was" if same else "lost")


@fault(
    done="OUTPUT_DIR cannot be created",
    seen="cannot write /proc/run",
    code=1,
    left="nothing",
)
def folder_that_cannot_be(world):
    return world.train(OUTPUT_DIR="/proc/run")


def unchanged(world, act):
    """Train and evaluate, act, and say whether all files of the run are as they were."""
    assert world.train(**EVALUATED).code == 0
    before = contents(world.run)
    outcome = act()
    after = contents(world.run)
    same = before == {name: after.get(name) for name in before}
    return replace(
        outcome, left=f"{outcome.left}; {'all files as they were' if same else 'files changed'}"
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
