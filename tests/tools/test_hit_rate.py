"""Hit rates without training: those that an evaluation reports, for every number of names."""

import json
import re

import pytest

from ita.cli import main
from tests.tools.scripts import ROOT, run_tool


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    counts = ["--train", "1", "--val", "6", "--test", "1"]
    assert main(["toy", "make", str(folder / "toy"), *counts]) == 0
    return folder


def rates(printed):
    """(image embedding, classes) -> K -> percentage."""
    header, _, *rows = [line.strip("| ").split(" | ") for line in printed.splitlines()]
    counts = [int(re.fullmatch(r"K = (\d+)", cell)[1]) for cell in header[2:]]
    return {
        (name, classes): dict(zip(counts, map(float, values), strict=True))
        for name, classes, *values in rows
    }


@pytest.fixture(scope="module")
def measured(scenes):
    """What the tool prints and draws."""
    path = scenes / "rates.svg"
    keys = ["DATALOADER.NUM_WORKERS", "0"]
    done = run_tool(
        *("hit_rate.py", "--config-file", str(ROOT / "configs/toy/ita_tiny.yaml")),
        *("--max-names", "16", "--plot", str(path), *keys),
        DETECTRON2_DATASETS=str(scenes),
    )
    assert done.returncode == 0, done.stderr
    return rates(done.stdout), path.read_text()


@pytest.mark.parametrize("embedding", ["shared", "places"])
def test_rates_are_those_of_an_evaluation(embedding, measured, scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(scenes))
    model = ROOT / "ita/toy/model"
    keys = ["MODEL.WEIGHTS", str(model / "model.safetensors"), "DATALOADER.NUM_WORKERS", "0"]
    keys += ["OUTPUT_DIR", str(tmp_path), "MODEL.ITA.IMAGE_EMBEDDING", embedding]
    assert main(["evaluate", "--config-file", str(model / "config.yaml"), *keys]) == 0
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    expected = results["toy_val"]["dominant"]
    for classes in ("all", "seen", "unseen"):
        name = "hit_rate" if classes == "all" else f"hit_rate_{classes}"
        assert measured[0][embedding, classes][16] == pytest.approx(expected[name], abs=0.051)


def test_more_names_find_more(measured):
    for by_count in measured[0].values():
        assert list(by_count.values()) == sorted(by_count.values())


def test_the_plot_has_a_curve_of_each_source_for_seen_and_unseen_classes(measured):
    panels = re.split(r'id="axes_\d"', measured[1])[1:]
    assert len(panels) == 2
    for panel in panels:
        assert "#0072b2" in panel
        assert "#d55e00" in panel


def test_bad_input_gets_one_line(tmp_path):
    config = str(ROOT / "configs/toy/ita_tiny.yaml")
    done = run_tool("hit_rate.py", "--config-file", config, DETECTRON2_DATASETS=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not done.stdout
