"""Faults of checkpoints, and what runs resume from."""

import os
import random
from dataclasses import replace

import torch

from tests.faults.fault import fault
from tests.faults.world import iterations


def resumed_from(world, damage):
    """Train two iterations, damage the folder, resume for a third."""
    assert world.train().code == 0
    damage(world.run)
    outcome = world.train("--resume", SOLVER__MAX_ITER=3)
    resumed = f"resumed {iterations(outcome)}" if outcome.code == 0 else "not resumed"
    return replace(outcome, left=f"{outcome.left}; {resumed}")


def last_checkpoint_row(done, seen, damage):
    """A row in which the run goes on from the newest checkpoint without ``last_checkpoint``."""
    declare = fault(
        done=f"last_checkpoint {done}, --resume",
        seen=seen,
        code=0,
        left="checkpoints of iterations 1, 2, 3; resumed 2 to 3",
    )
    return declare(lambda world: resumed_from(world, lambda run: damage(run / "last_checkpoint")))


no_last_checkpoint = last_checkpoint_row(
    "is removed", "last_checkpoint is missing", lambda path: path.unlink()
)
empty_last_checkpoint = last_checkpoint_row(
    "is empty", "last_checkpoint is empty", lambda path: path.write_text("")
)
dangling_last_checkpoint = last_checkpoint_row(
    "names a file that is gone",
    "which last_checkpoint names, does not exist",
    lambda path: path.write_text("model_0009999.pth"),
)
binary_last_checkpoint = last_checkpoint_row(
    "is random bytes",
    "last_checkpoint is damaged: it is not UTF-8",
    lambda path: path.write_bytes(b"\xff\xfe\x80"),
)
outside_last_checkpoint = last_checkpoint_row(
    "names a file of another folder",
    "instead of the name of a file",
    lambda path: path.write_text("../other/model_final.pth"),
)


@fault(
    done="the newest checkpoint is cut in half, --resume",
    seen="resuming from the newest intact checkpoint",
    code=0,
    left="checkpoints of iterations 1, 2, 3; resumed 1 to 3",
)
def truncated_checkpoint(world):
    def damage(run):
        (run / "model_final.pth").unlink()
        path = run / "model_0000001.pth"
        os.truncate(path, path.stat().st_size // 2)
        (run / "last_checkpoint").write_text(path.name)

    return resumed_from(world, damage)


@fault(
    done="a bit flips in the weights of the newest checkpoint, --resume",
    seen="does not fit its checksum",
    code=0,
    left="checkpoints of iterations 1, 2, 3; resumed 2 to 3",
)
def flipped_bit(world):
    return resumed_from(world, lambda run: flip_bit(run / "model_final.pth"))


@fault(
    done="a bit flips in every checkpoint, --resume",
    seen="no checkpoint to resume from in",
    code=1,
    left="damaged model_0000001.pth; damaged model_final.pth; not resumed",
)
def flipped_bits(world):
    def damage(run):
        (run / "model_0000000.pth").unlink()
        for path in run.glob("*.pth"):
            flip_bit(path)

    return resumed_from(world, damage)


@fault(
    done="a bit flips in MODEL.WEIGHTS, --eval-only",
    seen="does not fit its checksum",
    code=1,
    left="checkpoints of iterations 1, 2; damaged model_final.pth",
)
def flipped_bit_in_evaluation(world):
    assert world.train().code == 0
    flip_bit(world.run / "model_final.pth")
    keys = {"MODEL__WEIGHTS": world.run / "model_final.pth", "DATASETS__TEST": ("toy_val",)}
    return world.train("--eval-only", **keys)


@fault(
    done="--resume in a folder without a run",
    seen="No checkpoint to resume from",
    code=0,
    left="checkpoints of iterations 1, 2",
)
def nothing_to_resume(world):
    return world.train("--resume")


@fault(
    done="the newest checkpoint has weights only, --resume",
    seen="has weights but no training state",
    code=0,
    left="checkpoints of iterations 1, 2, 3; resumed 2 to 3",
)
def weights_only(world):
    def damage(run):
        content = torch.load(run / "model_final.pth", weights_only=True)
        torch.save({"model": content["model"], "iteration": 1}, run / "model_final.pth")

    return resumed_from(world, damage)


@fault(
    done="incomplete files of a killed run, --resume",
    seen="which an interrupted job has left",
    code=0,
    left="checkpoints of iterations 1, 2, 3; resumed 2 to 3",
)
def incomplete_files(world):
    def damage(run):
        (run / ".model_final.pth.123-456.partial").write_bytes(b"PK")
        (run / ".report.html.123-456.partial").mkdir()

    return resumed_from(world, damage)


@fault(
    done="MODEL.WEIGHTS is a text file, --eval-only",
    seen="cannot read checkpoint",
    code=1,
    left="nothing",
)
def text_as_weights(world):
    path = world.folder / "text.pth"
    path.write_text("no weights")
    return world.train("--eval-only", MODEL__WEIGHTS=path, DATASETS__TEST=("toy_val",))


class MakesFolder:
    """An object whose pickle makes a folder when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@fault(
    done="MODEL.WEIGHTS is a pickle that runs a command, --eval-only",
    seen="contains objects other than tensors and plain values",
    code=1,
    left="nothing",
)
def hostile_pickle(world):
    path, made = world.folder / "hostile.pth", world.folder / "made"
    torch.save({"model": MakesFolder(made)}, path)
    outcome = world.train("--eval-only", MODEL__WEIGHTS=path, DATASETS__TEST=("toy_val",))
    return replace(outcome, left="a folder") if made.exists() else outcome


@fault(
    done="kill -9 at 2 random moments, one of them in a save; then --resume",
    seen="Training from iteration",
    code=0,
    left="checkpoints of iterations 100, 120; the weights of an undisturbed run",
)
def killed_at_random(world):
    return killed(world, times=2, seed=7)


@fault(
    done="kill -9 at 20 random moments, 10 of them in a save; then --resume",
    seen="Training from iteration",
    code=0,
    left="checkpoints of iterations 100, 120; the weights of an undisturbed run",
    slow=True,
)
def killed_often(world):
    return killed(world, times=20, seed=8)


def killed(world, times, seed):
    """Kill runs, every second one while it saves; compare the end with an undisturbed run."""
    keys = {
        "SOLVER__MAX_ITER": 120,
        "SOLVER__CHECKPOINT_KEEP_LAST": 1,
        "SOLVER__CHECKPOINT_KEEP_EVERY": 100,
    }
    other = world.folder / "other"
    assert world.finish(world.start("train", **keys, OUTPUT_DIR=other), other).code == 0
    moments = random.Random(seed)
    for number in range(times):
        command = world.start("train", "--resume", **keys)
        command.wait_for("Training from")
        if number % 2:
            command.wait_for_file(world.run, ".model_*.partial", after=moments.random())
        else:
            command.sleep(moments.random())
        command.kill()
        command.wait()
    outcome = world.train("--resume", **keys)
    first, second = (
        torch.load(folder / "model_final.pth", weights_only=True)["model"]
        for folder in (other, world.run)
    )
    same = all(torch.equal(second[name], value) for name, value in first.items())
    weights = "the weights of an undisturbed run" if same else "other weights"
    return replace(outcome, left=f"{outcome.left}; {weights}")


def flip_bit(path):
    """Flip a bit of the file's largest tensor."""
    content = bytearray(path.read_bytes())
    weights = torch.load(path, weights_only=True)["model"].values()
    largest = max(weights, key=lambda tensor: tensor.nbytes)
    start = content.index(largest.numpy().tobytes())
    content[start + largest.nbytes // 2] ^= 1
    path.write_bytes(content)
