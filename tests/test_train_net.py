"""The command that people type, in processes that all run while the first test waits."""

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ita.config import load_config
from ita.engine.job import evaluate_only
from ita.errors import UserError
from ita.toy.dataset import CLASS_LISTS, make_toy_dataset
from tests.engine.tiny import CONFIG, REPOSITORY, overrides


class Command:
    """``python train_net.py``, or another program, on the tiny config in a folder of its own."""

    def __init__(self, folder, datasets):
        self.folder = folder
        self.datasets = datasets

    def __call__(self, run, *options, launcher=(), program=("train_net.py",), **more):
        more.setdefault("SOLVER__MAX_ITER", 2)
        config = ["--config-file", str(CONFIG)]
        words = overrides(OUTPUT_DIR=self.folder / run, **more)
        return subprocess.run(
            [sys.executable, *launcher, *program, *config, *options, *words],
            cwd=REPOSITORY,
            env={
                **os.environ,
                "DETECTRON2_DATASETS": str(self.datasets),
                "OMP_NUM_THREADS": "1",
                "CUDA_VISIBLE_DEVICES": "",
            },
            capture_output=True,
            text=True,
            timeout=120,
        )


def train_then_evaluate(command):
    """Two processes train, one evaluates what they wrote, with a class list of its own."""
    without_effect = {"MODEL__SEM_SEG_HEAD__NUM_CLASSES": 7}
    trained = command("good", "--num-gpus", "2", "--dist-url", "auto", **without_effect)
    names = (CLASS_LISTS / "toy.txt").read_text()
    vocabulary = command.folder / "mine.txt"
    vocabulary.write_text(re.sub(r"^(\d+): ", r"\1: painted ", names, flags=re.MULTILINE))
    evaluated = command(
        "evaluated",
        "--vocabulary",
        str(vocabulary),
        program=("-m", "ita", "evaluate"),
        MODEL__WEIGHTS=command.folder / "good" / "model_final.pth",
    )
    return trained, evaluated


def broken_data(command):
    """A copy of the data whose first validation image is cut short."""
    datasets = command.folder / "broken_datasets"
    shutil.copytree(command.datasets, datasets)
    image = min((datasets / "toy" / "toy_val").iterdir())
    image.write_bytes(image.read_bytes()[:200])
    return Command(command.folder, datasets), image


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every process of this file: name -> what it came to."""
    folder = tmp_path_factory.mktemp("commands")
    make_toy_dataset(folder / "datasets" / "toy", train=4, val=3, test=1, size=64)
    command = Command(folder, folder / "datasets")
    nowhere = Command(folder, folder / "nowhere")
    with_broken_image, image = broken_data(command)
    (folder / "text.pth").write_text("hello world")
    torch.save({"model": {"decoder.head.norm.weight": torch.ones(7)}}, folder / "other.pth")
    jobs = {
        "good": lambda: train_then_evaluate(command),
        "unknown key": lambda: command("bad", SOLVER__MAX_ITERS=3),
        "no data": lambda: nowhere("bad"),
        "no checkpoint, two processes": lambda: command(
            "bad", "--num-gpus", "2", "--dist-url", "auto", MODEL__WEIGHTS=folder / "none.pth"
        ),
        "unreadable checkpoint": lambda: command(
            "bad", "--eval-only", MODEL__WEIGHTS=folder / "text.pth"
        ),
        "nothing to resume": lambda: command("bad", "--eval-only", "--resume"),
        "other shape": lambda: command("bad", MODEL__WEIGHTS=folder / "other.pth"),
        "too many GPUs": lambda: command("bad", "--num-gpus", "99", MODEL__DEVICE="cuda"),
        "corrupt image, torchrun": lambda: with_broken_image(
            "broken",
            "--eval-only",
            launcher=["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"],
            DATALOADER__NUM_WORKERS=1,
        ),
    }
    with ThreadPoolExecutor(max_workers=2) as pool:
        futures = {name: pool.submit(job) for name, job in jobs.items()}
        results = {name: future.result() for name, future in futures.items()}
    return {**results, "folder": folder, "image": image}


BAD = {
    "nothing to resume": "--resume: there is no checkpoint in OUTPUT_DIR",
    "unknown key": "unknown config key SOLVER.MAX_ITERS .*did you mean SOLVER.MAX_ITER?",
    "no data": "toy_val not found: looked for .*nowhere/toy/toy_val; DETECTRON2_DATASETS",
    "no checkpoint, two processes": "checkpoint .*none.pth does not exist",
    "unreadable checkpoint": "cannot read checkpoint .*text.pth",
    "other shape": r"decoder.head.norm.weight \(7 in the file, 32 in the model\)",
    "too many GPUs": "--num-gpus 99, but this machine has 0 visible GPUs",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_line_and_leaves_nothing(runs, name):
    process = runs[name]
    assert process.returncode == 1
    lines = process.stderr.splitlines()
    assert len(lines) == 1, process.stderr
    assert re.match(f"error: .*{BAD[name]}", lines[0])
    assert "Traceback" not in process.stdout
    assert "Namespace" not in process.stdout
    assert "config_file" not in process.stdout
    assert not (runs["folder"] / "bad").exists()


def test_nothing_to_evaluate_is_an_error():
    cfg = load_config(CONFIG, overrides(DATASETS__TEST=()))
    with pytest.raises(UserError, match=r"DATASETS\.TEST is empty"):
        evaluate_only(cfg, None, resume=False)


def test_an_error_in_one_of_two_processes_is_told_once(runs):
    """The other process, which waits for this one, has nothing to say; torchrun itself does."""
    process = runs["corrupt image, torchrun"]
    assert process.returncode == 1
    told = [line for line in process.stderr.splitlines() if "error: " in line]
    assert len(told) == 1, process.stderr
    assert str(runs["image"]) in told[0]
    assert not (runs["folder"] / "broken" / "results.json").exists()


def test_train_and_evaluate(runs):
    trained, evaluated = runs["good"]
    assert trained.returncode == 0, trained.stderr
    assert evaluated.returncode == 0, evaluated.stderr
    assert not trained.stderr + evaluated.stderr
    good = runs["folder"] / "good"
    assert {"config.yaml", "log.txt", "model_final.pth", "results.json"} <= {
        path.name for path in good.iterdir()
    }
    # What was logged before the folder was opened is in it, too.
    log = (good / "log.txt").read_text()
    assert "Command line: train_net.py --config-file" in log
    assert log.count("without effect: MODEL.SEM_SEG_HEAD.NUM_CLASSES") == 1
    assert trained.stdout.count("without effect: MODEL.SEM_SEG_HEAD.NUM_CLASSES") == 1
    assert log.count("with SEED 3: ") == trained.stdout.count("with SEED 3: ") == 1
    for output in (log, trained.stdout, evaluated.stdout):
        assert "erializ" not in output
        assert "random seed" not in output
    assert "iter 2/2" in (good / "log.txt").read_text()
    results = [
        json.loads((runs["folder"] / run / "results.json").read_text())
        for run in ("good", "evaluated")
    ]
    assert [r["results"]["toy_val"]["info"]["images"] for r in results] == [3, 3]
    run = results[1]["run"]
    assert run["weights"] == str(good / "model_final.pth")
    assert (run["train_class_list"], run["train_class_list_from"]) == ("toy_seen", "the checkpoint")
    assert results[1]["results"]["toy_val"]["info"]["class_list"].endswith("mine.txt")
    assert "mine.txt" in evaluated.stdout
