"""Signals to a run."""

import signal
from dataclasses import replace

from tests.faults.fault import fault
from tests.faults.world import LONG, steps_saved


def stopped(world, number, **keys):
    """Stop a long training by a signal; resume it for one more iteration."""
    command = world.start("train", **{**LONG, **keys})
    command.wait_for("iter 20/")
    command.kill(number)
    outcome = world.finish(command)
    finished = steps_saved(world.run)
    more = world.train("--resume", SOLVER__MAX_ITER=finished + 1, SOLVER__CHECKPOINT_PERIOD=0)
    goes_on = f"Training from iteration {finished} to {finished + 1}" in more.output
    return replace(outcome, left="goes on where it stopped" if goes_on else more.output)


def stop_row(done, number, **keys):
    """A row in which a signal stops the run, which then goes on."""
    declare = fault(
        done=f"{done}; then --resume",
        seen=f"stopped by {number.name} after iteration",
        code=75,
        left="goes on where it stopped",
    )
    return declare(lambda world: stopped(world, number, **keys))


interrupted = stop_row("Ctrl-C (SIGINT)", signal.SIGINT)
terminated = stop_row("SIGTERM", signal.SIGTERM)
hung_up = stop_row("SIGHUP: the terminal is closed", signal.SIGHUP)
out_of_time = stop_row(
    "SIGUSR1 before SLURM's time limit, with data loader workers",
    signal.SIGUSR1,
    DATALOADER__NUM_WORKERS=1,
)


@fault(
    done="Ctrl-C while an evaluation is in progress",
    seen="Results",
    code=75,
    left="checkpoints of iterations 2",
)
def interrupted_evaluation(world):
    keys = {
        **LONG,
        "DATASETS__TEST": ("toy_val",),
        "TEST__EVAL_PERIOD": 1,
        "TEST__REPORT": False,
        "TEST__NUM_PICTURES": 0,
    }
    command = world.start("train", **keys)
    command.wait_for("Evaluating 3 images")
    command.kill(signal.SIGINT)
    return world.finish(command)


@fault(
    done="Ctrl-C of --eval-only --num-gpus 2 while it loads the model",
    seen="stopped",
    code=130,
    left="nothing",
    slow=True,
)
def interrupted_processes(world):
    words = ("--eval-only", "--num-gpus", "2", "--dist-url", "auto")
    command = world.start("train", *words, DATASETS__TEST=("toy_val",))
    command.wait_for("Process 1 of")
    command.kill(signal.SIGINT)
    return world.finish(command)


@fault(
    done="Ctrl-C of --eval-only while it loads the model",
    seen="stopped",
    code=130,
    left="nothing",
)
def interrupted_eval_only(world):
    command = world.start("train", "--eval-only", DATASETS__TEST=("toy_val",))
    command.wait_for("Process 1 of")
    command.kill(signal.SIGINT)
    return world.finish(command)
