"""The comparison: its runs with a stand-in for ``ita train``, its statistics and its report."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from comparison.command import main
from comparison.plot import draw_plot
from comparison.report import Report
from comparison.runs import Setup, training_of
from comparison.schedule import alone_in
from comparison.summary import (
    DIFFERENCES,
    QUALITY,
    Comparison,
    Summary,
    format_table,
)
from comparison.variants import BASE, MODELS, ablation, main_variants
from ita.errors import UserError
from ita.toy.dataset import make_toy_dataset
from tests.engine.tiny import CONFIG, REPOSITORY, overrides

# The numbers that the tests below are about.
BASE_CONFIG = f"""
_BASE_: {CONFIG}
MODEL:
  FC_CLIP:
    CLIP_PRETRAINED_WEIGHTS: "random"
    GEOMETRIC_ENSEMBLE_ALPHA: 0.0
    GEOMETRIC_ENSEMBLE_BETA: 0.0
  ITA:
    NUM_DOMINANT: 4
    SELF_ATTENTION: False
    IMAGE_EMBEDDING: "shared"
    CANDIDATE_TEXT: "prompted"
  MASK_FORMER:
    NUM_OBJECT_QUERIES: 20
SOLVER:
  BASE_LR: 0.001
  STEPS: (480,)
  MAX_ITER: 600
  WARMUP_ITERS: 0
TEST:
  NUM_PICTURES: 1
"""
# Notes how it was called, takes the time it is told to, and finds an mIoU that tells K and seed.
STAND_IN = """
import json, os, sys, time
from pathlib import Path
keys = dict(zip(*[iter(sys.argv[sys.argv.index("OUTPUT_DIR"):])] * 2))
folder = Path(keys["OUTPUT_DIR"])
with open(folder / "calls", "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
(folder / "last_checkpoint").write_text("model_0000001.pth")
(folder / "model_0000001.pth").touch()
(folder / "pid").write_text(str(os.getpid()))
time.sleep(float(os.environ.get("STAND_IN_SECONDS", 0)))
if os.environ.get("STAND_IN_FAILS", "nowhere") in str(folder):
    sys.exit("error: nothing works")
if "--eval-only" in sys.argv:
    without = keys.get("MODEL.ITA.NUM_DOMINANT") == "0"
    unseen = 30 + int(keys["SEED"]) - 10 * without
    found = {"mIoU_seen": 60, "mIoU_unseen": unseen, "mIoU_harmonic": 40, "IoU-0 red bar": 1}
    results = {name: {"sem_seg": found} for name in eval(keys["DATASETS.TEST"])}
    (folder / "results.json").write_text(json.dumps({"results": results}))
else:
    (folder / "model_final.pth").touch()
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return make_toy_dataset(
        tmp_path_factory.mktemp("scenes") / "toy", train=2, val=1, test=1, size=32
    )


@pytest.fixture
def output(tmp_path, scenes) -> Path:
    shutil.copytree(scenes, tmp_path / "output" / "datasets" / "toy")
    return tmp_path / "output"


@pytest.fixture
def command(tmp_path) -> list[str]:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    return [sys.executable, str(script)]


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE_CONFIG)
    return path


@pytest.fixture
def words(config, output) -> list[str]:
    return [
        *("--config-file", str(config), "--output", str(output), "--seeds", "0", "1"),
        *("--variants", "ita", "fcclip", "--iterations", "10"),
    ]


def calls(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


def keys_of(call: list[str]) -> dict[str, str]:
    pairs = call[call.index("OUTPUT_DIR") :]
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


def test_every_run_is_trained_and_evaluated_once(output, words, command, capsys):
    assert main(words, command) == 0
    printed = capsys.readouterr().out
    assert "fcclip seed 1: evaluation took" in printed
    assert "mIoU unseen 21.0" in printed
    for seed in (0, 1):
        (training,) = calls(output / "fcclip" / f"seed{seed}")
        (evaluation,) = calls(output / "fcclip" / f"seed{seed}" / "val")
        for keys in (keys_of(training), keys_of(evaluation)):
            assert keys["SEED"] == str(seed)
            assert keys["MODEL.ITA.NUM_DOMINANT"] == "0"
            assert keys["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"] == "24"  # of 4 + 20
            assert keys["MODEL.ITA.SELF_ATTENTION"] == "True"
            assert keys["SOLVER.MAX_ITER"] == "10"
            assert keys["SOLVER.STEPS"] == "(8,)"  # of 480 in 600
            assert keys["SOLVER.CHECKPOINT_PERIOD"] == "2"
        assert keys_of(training)["DATASETS.TEST"] == "()"
        assert keys_of(evaluation)["DATASETS.TEST"] == "('toy_val',)"
        weights = Path(keys_of(evaluation)["MODEL.WEIGHTS"])
        assert weights == output / "fcclip" / f"seed{seed}" / "model_final.pth"
        assert not (weights.parent / "model_0000001.pth").exists()
    record = json.loads((output / "ita" / "seed0" / "run.json").read_text())
    assert record["finished"]
    (attempt,) = record["attempts"]
    assert attempt["seconds"] > 0
    assert attempt["peak_memory_mb"] > 0
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", attempt["commit"])

    assert main(words, command) == 0
    assert "8 of 8 runs are already finished" in capsys.readouterr().out
    assert len(calls(output / "ita" / "seed0")) == 1


def test_the_script_is_this_command(tmp_path):
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "tools" / "toy_comparison.py"), "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "Every run is a separate `ita train` in the folder OUTPUT" in done.stdout


def test_another_split_or_ensemble_trains_nothing(output, words, command):
    words += ["--variants", "ita", "--seeds", "0"]
    assert main(words, command) == 0
    assert main([*words, "--split", "test"], command) == 0
    assert main([*words, "--ablation", "ensemble"], command) == 0
    folder = output / "ita" / "seed0"
    assert len(calls(folder)) == 1
    assert "toy_test_distractors" in keys_of(calls(folder / "test")[0])["DATASETS.TEST"]
    keys = keys_of(calls(folder / "val_alpha_0.4_beta_0")[0])
    assert keys["MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_ALPHA"] == "0.4"
    assert keys["MODEL.WEIGHTS"] == str(folder / "model_final.pth")
    assert not (folder / "val_alpha_0_beta_0").exists()  # the config's own values
    report = json.loads((output / "report" / "ensemble_val.json").read_text())
    assert len(report["summary"]) == 12  # alpha, beta, and CLIP alone
    assert report["reference"] == "ita"


def test_each_variant_can_have_its_own_weights(output, words, command):
    words += ["--seeds", "0"]
    assert main(words, command) == 0
    # The config's are 0 and 0: FC-CLIP is evaluated again, ITA is not.
    assert main([*words, "--weights", "fcclip=0.2,0.4", "ita=0,0"], command) == 0
    folder = output / "fcclip" / "seed0"
    assert len(calls(folder)) == len(calls(output / "ita" / "seed0" / "val")) == 1
    keys = keys_of(calls(folder / "val_alpha_0.2_beta_0.4")[0])
    assert keys["MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_ALPHA"] == "0.2"
    assert keys["MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_BETA"] == "0.4"
    assert keys["MODEL.WEIGHTS"] == str(folder / "model_final.pth")
    report = json.loads((output / "report" / "variants_val.json").read_text())
    assert report["reference"] == "fcclip_alpha_0.2_beta_0.4"
    assert list(report["summary"]) == ["ita", report["reference"]]
    assert report["facts"]["FC-CLIP, α = 0.2, β = 0.4"].endswith("BETA 0.4")
    table = (output / "report" / "variants_val.md").read_text()
    assert "| ITA, α = 0, β = 0 " in table


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--weights", "ita=0.4"], "'ita=0.4' is not VARIANT=ALPHA,BETA"),
        (["--weights", "itta=0.4,0.4"], "--weights of itta, which is not among --variants"),
        (["--weights", "ita=0,0", "--ablation", "matching"], "not for an --ablation"),
    ],
)
def test_wrong_weights_are_refused(words, command, capsys, more, told):
    with pytest.raises(SystemExit):
        main([*words, *more], command)
    assert told in capsys.readouterr().err


def test_weights_out_of_range_are_refused(words, command, capsys):
    assert main([*words, "--weights", "ita=0,1.5"], command) == 1
    assert (
        "GEOMETRIC_ENSEMBLE_BETA is 1.5; it must be a number from 0 to 1" in capsys.readouterr().err
    )


def test_training_scenes_as_many_as_told(output, words, command, capsys, monkeypatch):
    small = partial(make_toy_dataset, val=1, test=1, size=32)
    monkeypatch.setattr("comparison.command.make_toy_dataset", small)
    assert main([*words, "--train-scenes", "2"], command) == 0
    assert main([*words, "--train-scenes", "3"], command) == 1
    folder = output / "datasets" / "toy"
    told = f"{folder} already has other content (train 2, not 3); remove it"
    assert told in capsys.readouterr().err
    shutil.rmtree(output)
    assert main([*words, "--seeds", "0", "--train-scenes", "4"], command) == 0
    record = json.loads((output / "ita" / "seed0" / "run.json").read_text())
    assert record["settings"]["scenes"]["train"] == 4


def test_what_a_model_without_dominant_categories_cannot_vary(words, command, capsys):
    words += ["--variants", "no_dominant", "--ablation", "matching"]
    assert main(words, command) == 1
    assert "no_dominant has no dominant categories" in capsys.readouterr().err


def test_other_settings_are_refused(output, words, command, capsys):
    assert main(words, command) == 0
    assert main([*words, "--override", "SOLVER.BASE_LR", "0.5"], command) == 1
    error = capsys.readouterr().err
    assert f"{output / 'ita' / 'seed0'} was created with other settings" in error
    assert "SOLVER.BASE_LR 0.001, now 0.5" in error
    assert main([*words, "--override", "TEST.NUM_PICTURES", "0"], command) == 1
    error = capsys.readouterr().err
    assert f"{output / 'ita' / 'seed0' / 'val'} was created with other settings" in error
    assert len(calls(output / "ita" / "seed0")) == 1


def test_one_failure_leaves_the_rest(output, words, command, capsys, monkeypatch):
    monkeypatch.setenv("STAND_IN_FAILS", "fcclip/seed1")
    assert main(words, command) == 1
    printed, error = capsys.readouterr()
    assert "fcclip seed 1: training failed with exit code 1" in error
    assert "error: nothing works" in error
    assert str(output / "fcclip" / "seed1" / "output.txt") in error
    rows = [line.split() for line in printed.splitlines()]
    assert ["ITA", "2", "60.0", "±", "0.0", "30.5", "±", "0.7"] in [row[:8] for row in rows]
    # The difference is that of seed 0 alone, for the other seed has no partner.
    assert ["ITA", "2", "+0.0", "+10.0", "+0.0"] in rows
    monkeypatch.delenv("STAND_IN_FAILS")
    assert main(words, command) == 0
    assert "--resume" in calls(output / "fcclip" / "seed1")[1]
    assert len(calls(output / "fcclip" / "seed0")) == 1


def test_a_report_of_what_is_finished(output, words, command, capsys, tmp_path):
    assert main([*words, "--seeds", "0"], command) == 0
    assert main([*words, "--report-only", "--report", str(tmp_path / "docs")], command) == 1
    assert "2 of 4 runs are not finished" in capsys.readouterr().err
    assert not (output / "ita" / "seed1").exists()
    markdown = (tmp_path / "docs" / "variants_val.md").read_text()
    assert "--report-only" not in markdown
    assert "tools/toy_comparison.py --config-file" in markdown


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_stopping_ends_the_runs_and_the_same_command_goes_on(output, words, command, number):
    code = "import sys; from comparison.command import main; sys.exit(main({!r}, {!r}))"
    # A shell without job control starts background processes deaf to SIGINT.
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", code.format(words, command)],
            cwd=REPOSITORY,
            env={
                **os.environ,
                "PYTHONPATH": str(REPOSITORY / "tools"),
                "STAND_IN_SECONDS": "600",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, old)
    files = [output / model / "seed0" / "pid" for model in ("ita", "fcclip")]
    for _ in range(2400):
        if all(file.exists() and file.read_text() for file in files):
            break
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    else:
        process.kill()
        pytest.fail("no run was started")
    with pytest.raises(UserError, match="another comparison"), alone_in(output):
        pass
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command resumes" in error
    for file in files:
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)
    assert main(words, command) == 0
    assert "--resume" in calls(output / "ita" / "seed0")[1]
    record = json.loads((output / "ita" / "seed0" / "run.json").read_text())
    assert [attempt["exit_code"] for attempt in record["attempts"]] == [-signal.SIGTERM, 0]


@pytest.fixture
def setup(config, output) -> Setup:
    return Setup(config, output, (), None, "val")


def test_variants_share_the_number_of_queries(setup):
    for variant in main_variants(setup.config_of(BASE)):
        cfg = setup.config_of(variant)
        assert cfg.MODEL.ITA.NUM_DOMINANT + cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES == 24


def test_ablations_use_the_models_that_are_there(setup):
    ita = main_variants(setup.config_of(BASE))[0]
    rows = ablation("dominant", ita, setup.config_of)
    names = ["no_dominant", "ita", "ita_dominant_8", "ita_dominant_16"]  # 32 is more than 24
    assert [row.name for row in rows] == names
    preferring = replace(setup, overrides=("MODEL.ITA.DOMINANT_MATCH_WEIGHT", "3.0"))
    assert [r.name for r in ablation("dominant", ita, preferring.config_of)] == names
    assert rows[1].title == "ITA, K = 4 (as configured)"
    for row in rows:
        cfg = setup.config_of(row)
        assert cfg.MODEL.ITA.NUM_DOMINANT + cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES == 24
    names = [row.name for row in ablation("image-embedding", ita, setup.config_of)]
    assert names == ["ita", "ita_clip_preprocess", "ita_places"]
    assert [r.name for r in ablation("candidate-text", ita, setup.config_of)] == ["ita", "ita_bare"]
    names = [row.name for row in ablation("matching", ita, setup.config_of)]
    assert names == ["ita", "ita_matching_3", "ita_matching_10"]


def test_options_of_text_queries_are_turned_on_and_off(setup):
    off = ["MODEL.ITA.TEXT_RESIDUAL", "True", "MODEL.ITA.DOMINANT_MATCH_WEIGHT", "3.0"]
    on = ["MODEL.ITA.IMAGE_EMBEDDING", "places", "MODEL.ITA.SELF_ATTENTION", "False"]
    several = replace(setup, overrides=(*off, *on))
    ita = main_variants(several.config_of(BASE))[0]
    rows = ablation("text-queries", ita, several.config_of)
    assert [row.title.removeprefix("ITA, ") for row in rows] == [
        "all options (as configured)",
        "without places",
        "without text residual",
        "without preferred matching",
        "with self-attention",
    ]
    configs = [several.config_of(row).MODEL.ITA for row in rows]
    assert [c.IMAGE_EMBEDDING for c in configs].count("shared") == 1
    assert [c.TEXT_RESIDUAL for c in configs].count(False) == 1
    assert [c.DOMINANT_MATCH_WEIGHT for c in configs].count(0) == 1
    assert [c.SELF_ATTENTION for c in configs].count(True) == 1


def test_training_depends_on_scenes_and_clip_but_not_on_the_test(output, setup):
    ita = main_variants(setup.config_of(BASE))[0]
    settings = training_of(setup, ita, 0).settings
    assert settings["CLIP weights"] == "random"
    assert settings["scenes"]["train"] == 2
    assert settings["SEED"] == 0
    assert not any(key.startswith(("TEST.", "DATASETS.TEST", "OUTPUT_DIR")) for key in settings)


def test_statistics_by_hand():
    summary = Summary.of([1.0, 2.0, 6.0])
    assert summary.mean == 3
    assert summary.deviation == pytest.approx(7**0.5)  # (4 + 1 + 9) / (3 - 1)
    assert summary.format() == "3.0 ± 2.6"
    assert Summary.of([4.25]).format(sign="+") == "+4.2"
    assert Summary.of([-4.0, -6.0]).format(sign="+") == "-5.0 ± 1.4"
    assert Summary.of([]).format() == "–"


@pytest.fixture
def comparison() -> Comparison:
    def run(seen, unseen, seconds):
        return {
            "toy_val/sem_seg/mIoU_seen": seen,
            "toy_val/sem_seg/mIoU_unseen": unseen,
            "toy_val/sem_seg/mIoU": 50.0,
            "seconds": seconds,
        }

    runs = {
        "ita": {0: run(60.0, 42.0, 100.0), 1: run(62.0, 46.0, 104.0), 2: run(70.0, 60.0, 96.0)},
        "fcclip": {0: run(61.0, 30.0, 90.0), 1: run(61.0, 38.0, 90.0)},
    }
    return Comparison({"ita": "ITA", "fcclip": "FC-CLIP"}, runs, "fcclip", "toy_val")


def test_table(comparison):
    assert format_table(comparison, QUALITY, "pipe").splitlines() == [
        "|         |   seeds |   mIoU seen |   mIoU unseen |   seconds |",
        "|:--------|--------:|------------:|--------------:|----------:|",
        "| ITA     |       3 |  64.0 ± 5.3 |    49.3 ± 9.5 |   100 ± 4 |",
        "| FC-CLIP |       2 |  61.0 ± 0.0 |    34.0 ± 5.7 |    90 ± 0 |",
    ]
    # Of seeds 0 and 1: -1 and 1, 12 and 8.
    assert format_table(comparison, DIFFERENCES, "pipe").splitlines()[2:] == [
        "| ITA     |       3 |  +0.0 ± 1.4 |   +10.0 ± 2.8 |",
        "| FC-CLIP |       2 |   reference |     reference |",
    ]


def test_report(comparison, tmp_path):
    report = Report(
        title="A title",
        comparison=comparison,
        split="val",
        datasets=("toy_val",),
        command=["python", "tools/toy_comparison.py", "--output", "a b"],
        facts={"commit": "abc"},
        runs=[{"variant": "ita", "seed": 0}],
    )
    path = report.write(tmp_path, "name")
    text = path.read_text()
    assert "](name.png)" in text
    assert "python tools/toy_comparison.py --output 'a b'" in text
    assert "- commit: abc" in text
    assert "+10.0 ± 2.8" in text
    assert "Diagnostics" not in text  # nothing of it was measured
    content = json.loads((tmp_path / "name.json").read_text())
    assert content["runs"] == [{"variant": "ita", "seed": 0}]
    unseen = content["summary"]["ita"]["toy_val/sem_seg/mIoU_unseen"]
    assert unseen["mean"] == 49.333
    assert unseen["n"] == 3
    assert unseen["paired_difference"] == 10
    assert Image.open(tmp_path / "name.png").width == 1600


def test_plot_is_the_same_for_the_same_numbers(comparison):
    assert draw_plot(comparison) == draw_plot(comparison)


@pytest.mark.slow
def test_with_real_training(output, capsys):
    words = ["--config-file", str(CONFIG), "--output", str(output), "--seeds", "0", "1"]
    words += ["--variants", *MODELS[::3], "--iterations", "3", "--override", *overrides()]
    assert main(words) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "harmonic mean" in printed
    assert "hit rate" in printed
    report = json.loads((output / "report" / "variants_val.json").read_text())
    assert [(run["variant"], run["seed"]) for run in report["runs"]] == [
        *(("ita", 0), ("fcclip", 0)),
        *(("ita", 1), ("fcclip", 1)),
    ]
    log = (output / "fcclip" / "seed1" / "log.txt").read_text()
    assert "Training from iteration 0 to 3" in log
    config = (output / "fcclip" / "seed1" / "config.yaml").read_text()
    assert "NUM_DOMINANT: 0" in config
    assert "SELF_ATTENTION: true" in config
