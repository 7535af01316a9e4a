"""Faults of the tasks of a job of SLURM, which its variables stand for."""

import shutil
import signal
import socket
from dataclasses import replace

from tests.faults.fault import fault
from tests.faults.world import EVALUATED, LONG, steps_saved


def srun(world, *keys_of_tasks):
    """Run ``ita train`` in tasks as srun starts them, each with keys and words of its own."""
    return joined(world, started(world, *keys_of_tasks))


def started(world, *keys_of_tasks):
    """Start these tasks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    number = len(keys_of_tasks)
    job = {
        "SLURM_JOB_ID": 7,
        "SLURM_STEP_ID": 0,
        "SLURM_STEP_NUM_TASKS": number,
        "SLURM_STEP_TASKS_PER_NODE": number,
        "SLURM_STEP_NODELIST": "localhost",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    commands = []
    for rank, keys in enumerate(keys_of_tasks):
        variables = {**job, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}
        words = keys.get("words", ())
        keys = {key: value for key, value in keys.items() if key != "words"}
        commands.append(world.start("train", *words, variables=variables, **keys))
    return commands


def joined(world, commands):
    """Wait for all tasks; join their outputs."""
    outcomes = [world.finish(command) for command in commands]
    return replace(
        outcomes[0],
        code=max(outcome.code for outcome in outcomes),
        output="".join(outcome.output for outcome in outcomes),
        errors="".join(outcome.errors for outcome in outcomes),
    )


@fault(
    done="two tasks of srun: the data are missing",
    seen="error: data set toy_train not found",
    code=1,
    left="nothing",
)
def tasks_without_data(world):
    empty = world.folder / "empty"
    empty.mkdir()
    return srun(replace(world, scenes=empty), {}, {})


@fault(
    done="two tasks of srun: a config key is unknown",
    seen="error: unknown config key SOLVER.LR",
    code=1,
    left="nothing",
)
def tasks_with_an_unknown_key(world):
    return srun(world, {"SOLVER__LR": 1}, {"SOLVER__LR": 1})


@fault(
    done="two tasks of srun: a bad test image of the second one, in an evaluation of the training",
    seen="000003.jpg: it is damaged",
    code=1,
    left="checkpoints of iterations 2; the first one's log names the image",
)
def task_with_a_bad_test_image(world):
    scenes = world.folder / "scenes"
    shutil.copytree(world.scenes, scenes)
    (scenes / "toy" / "toy_val" / "000003.jpg").write_bytes(b"no image")
    keys = {**LONG, **EVALUATED, "TEST__EVAL_PERIOD": 2}
    outcome = srun(replace(world, scenes=scenes), keys, keys)
    last = (world.run / "log.txt").read_text().splitlines()[-1]
    named = "the first one's log names the image" if "000003.jpg" in last else last
    return replace(outcome, left=f"{outcome.left}; {named}")


@fault(
    done="two tasks of srun on machines that do not share OUTPUT_DIR, --resume",
    seen="rank 1 of 2 cannot see",
    code=1,
    left="checkpoints of iterations 1, 2",
)
def tasks_without_a_shared_folder(world):
    assert world.train().code == 0
    resume = {"words": ("--resume",)}
    return srun(world, resume, {**resume, "OUTPUT_DIR": world.folder / "of_its_own"})


@fault(
    done="two tasks of srun: an error of the first one alone",
    seen="error: --overwrite would remove MODEL.WEIGHTS",
    code=1,
    left="checkpoints of iterations 1, 2",
    any_number_of_lines=True,  # the second one, which loses its peer and the store, says so
)
def task_with_an_error_of_its_own(world):
    assert world.train().code == 0
    keys = {"words": ("--overwrite",), "MODEL__WEIGHTS": world.run / "model_final.pth"}
    return srun(world, keys, keys)


def disturbed(world, number):
    """Send a signal to the first of two tasks, which hosts the store, in a training."""
    keys = {**LONG, "words": ("--timeout", "5")}
    commands = started(world, keys, keys)
    commands[0].wait_for("iter 20/")
    commands[0].kill(number)
    outcome = world.finish(commands[1])
    if number != signal.SIGKILL:
        commands[0].kill(signal.SIGKILL)
    commands[0].wait()
    return outcome


def lost_task(done, number):
    """A row in which the first task is lost, and the second one says so."""
    declare = fault(
        done=f"two tasks of srun: {done}",
        seen="error: rank 0 of 2 died or did nothing for 5 s (--timeout); --resume continues",
        code=1,
        left="a log",
        slow=True,
        any_number_of_lines=True,  # PyTorch's store writes a backtrace when its host is gone
    )
    return declare(lambda world: disturbed(world, number))


killed_first_task = lost_task("kill -9 of the first", signal.SIGKILL)
hanging_first_task = lost_task("the first hangs (SIGSTOP)", signal.SIGSTOP)


def requeued(world, job, restarts):
    """Stop a training of job 7; start a job with --overwrite; return what becomes of it."""
    first = world.start("train", **LONG, variables={"SLURM_JOB_ID": 7})
    first.wait_for("iter 20/")
    first.kill(signal.SIGTERM)
    first.wait()
    finished = steps_saved(world.run)
    variables = {"SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": restarts}
    keys = {"SOLVER__MAX_ITER": finished + 1, "SOLVER__CHECKPOINT_PERIOD": 0}
    done = world.finish(world.start("train", "--overwrite", **keys, variables=variables))
    goes_on = f"Training from iteration {finished} to" in done.output
    return replace(done, left="goes on where it stopped" if goes_on else "begun anew")


def requeue_row(done, *, job, restarts, goes_on):
    """A row in which a job with --overwrite starts in the folder of job 7."""
    declare = fault(
        done=done,
        seen="restarted by the launcher: continuing" if goes_on else "Training from iteration 0",
        code=0,
        left="goes on where it stopped" if goes_on else "begun anew",
    )
    return declare(lambda world: requeued(world, job, restarts))


requeued_job = requeue_row(
    "a job of SLURM with --overwrite is pre-empted and queued again",
    job=7,
    restarts=1,
    goes_on=True,
)
requeued_before_the_start = requeue_row(
    "a job of SLURM with --overwrite, queued again before its first step, in another's folder",
    job=8,
    restarts=1,
    goes_on=False,
)
overwritten_in_one_job = requeue_row(
    "--overwrite for the second time in an interactive job of SLURM",
    job=7,
    restarts=0,
    goes_on=False,
)
