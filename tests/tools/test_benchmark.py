"""The benchmark: its processes at tiny sizes, its rows, and its tables."""

import io
import json
import platform
import shutil
from argparse import Namespace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarking import works
from benchmarking.arguments import parse_arguments
from benchmarking.cases import cases_of
from benchmarking.ceilings import count
from benchmarking.models import read_record
from benchmarking.report import Row, show
from benchmarking.worker import Memory, serve
from benchmarking.works import Work, made_up_classes
from ita.modeling.ops.plain import plain_selected
from ita.toy.dataset import make_toy_dataset
from tests.tools.scripts import ROOT, run_tool

TOY = ("--config-file", "configs/toy/ita_tiny_random.yaml")
ONCE = ("--repeats", "1", "--warm-up", "0", "--threads", "1")


benchmark = partial(run_tool, "benchmark.py")


def measured(tmp_path, *arguments, **environment):
    """Rows of a measurement that must succeed, as written to its JSON, and its tables."""
    output = tmp_path / "results.json"
    done = benchmark(*arguments, "--output", str(output), **environment)
    assert done.returncode == 0, done.stderr
    content = json.loads(output.read_text())
    assert content["command"].startswith(f"python tools/benchmark.py {arguments[0]}")
    assert content["machine"]["cores"] >= 1
    assert content["machine"]["versions"]["python"] == platform.python_version()
    return content["rows"], done.stdout


@pytest.mark.parametrize(
    ("words", "amounts"),
    [
        (("inference", *TOY, "--size", "64", "--classes", "3", "--instance"), {"images"}),
        (("inference", *TOY, "--size", "64", "--classes", "3", "--precision", "auto"), None),
        (("text", *TOY, "--names", "2", "--cache", "disk"), {"names"}),
        (("training", *TOY, "--size", "64", "--batch", "1"), {"images"}),
        (("attention", "--size", "64", "--passes", "backward"), {"images"}),
        (("floors", *TOY, "--size", "64", "--part", "decoder"), {"images", "GFLOP", "GB"}),
        (("floors", "--part", "matrix product"), {"GFLOP"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_each_work_answers_requests(words, amounts, tmp_path, monkeypatch):
    """What a measuring process does, in this one."""
    monkeypatch.setenv("BENCHMARK_FOLDER", str(tmp_path))
    (case,) = cases_of(parse_arguments(words))
    settings = Namespace(**json.loads(json.dumps(case.settings)))
    stream = io.StringIO()
    serve(settings, ["time own\n", "time plain\n", "memory\n"], stream)
    facts, own, plain, memory = map(json.loads, stream.getvalue().splitlines())
    assert Path(facts["package"]) == ROOT / "ita"
    assert amounts is None or facts["amounts"].keys() == amounts
    assert own["seconds"] > 0
    assert plain["seconds"] > 0
    assert 0 <= memory["above"] < memory["peak"]


def test_requests_select_the_operators(monkeypatch):
    selected = []
    work = Work(lambda: selected.append(plain_selected()))
    monkeypatch.setattr(works, "attention", lambda settings: work)
    (case,) = cases_of(parse_arguments(["attention", "--passes", "forward"]))
    serve(Namespace(**case.settings), ["time own", "time plain", "time own"], io.StringIO())
    assert selected == [False, True, False]


def test_a_given_image_is_resized(tmp_path):
    pixels = np.full((20, 30, 3), (10, 20, 30), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    image = read_record(str(tmp_path / "image.png"), 64)["image"]
    assert image.dtype == torch.uint8
    assert torch.equal(
        image, torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None].expand(3, 64, 64)
    )


def test_loader_reads_the_data_sets_of_the_environment(tmp_path):
    make_toy_dataset(tmp_path / "data" / "toy", train=4, val=1, test=1, size=64)
    words = ("loader", *TOY, "--images", "4", *ONCE)
    (row,), table = measured(tmp_path, *words, DETECTRON2_DATASETS=str(tmp_path / "data"))
    assert row["amounts"] == {"images": 4, "images per worker": 4}
    assert len(row["seconds"]) == 1
    assert f"| {row['title']} " in table


def test_evaluators_are_measured(tmp_path):
    words = ("evaluation", "--task", "panoptic", "--size", "64", "--images", "2", *ONCE)
    (row,), _ = measured(tmp_path, *words)
    assert row["amounts"] == {"images": 2}


def test_start_measures_a_process_of_its_own(tmp_path):
    (row,), _ = measured(tmp_path, "start", "--cache", "cold", *ONCE)
    assert row["memory"].keys() == {"peak"}
    assert row["memory"]["peak"] > 2e8  # that of the process that loads the model


def test_fast_and_plain_operators_take_turns(tmp_path):
    words = ("inference", *TOY, "--size", "64", "--classes", "3", "--compare", "plain")
    rows, tables = measured(tmp_path, *words, *ONCE)
    assert [row["variant"] for row in rows] == ["fast", "plain"]
    for row in rows:
        # Libraries and weights are part of the peak, but not of what a pass adds.
        assert 0 <= row["memory"]["above"] < row["memory"]["peak"]
        assert row["memory"]["peak"] > 1e8
    assert "| plain / fast " in tables


def test_another_checkout_runs_its_own_code(tmp_path):
    """Its processes may also be killed: that row names the reason, and the others are measured."""
    other = tmp_path / "other"
    shutil.copytree(ROOT / "ita", other / "ita", symlinks=True)
    with (other / "ita" / "modeling" / "pixel_decoder.py").open("a") as file:
        file.write("import os\nDeformableAttention.forward = lambda *_: os.kill(os.getpid(), 9)\n")
    output = tmp_path / "results.json"
    words = ("attention", "--size", "64", "--passes", "forward", *ONCE, "--output", str(output))
    done = benchmark(*words, "--compare", str(other))
    assert done.returncode == 1
    own, killed = json.loads(output.read_text())["rows"]
    assert (own["variant"], own["error"], len(own["seconds"])) == ("this", "", 1)
    assert killed["variant"] == "other"
    assert "killed" in killed["error"]
    assert killed["error"] in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("text", "--config-file", "configs/missing.yaml"), "config file not found"),
        (("attention", "--compare", "missing"), "--compare missing: there is no checkout"),
        (("attention", "--compare", str(ROOT)), "this is the checkout that is measured"),
        (("start", "--compare", "plain"), "--compare plain: there is no checkout"),
        (("plot", "missing.json", "--output", "plot.svg"), "cannot read missing.json"),
    ],
)
def test_mistakes_are_named_in_one_line(words, message, tmp_path):
    done = benchmark(*words)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


def test_rows_are_all_combinations():
    words = ["inference", "--size", "320", "640", "--classes", "1", "20"]
    titles = [case.title for case in cases_of(parse_arguments(words))]
    assert titles == [
        f"{size} × {size}, float32, batch 1, classes {classes}"
        for size in (320, 640)
        for classes in (1, 20)
    ]
    words = ["floors", "--size", "320", "640", "--part", "copy", "decoder"]
    titles = [case.title for case in cases_of(parse_arguments(words))]
    assert titles[0] == "copy"  # once, as it does not depend on the size
    assert len(titles) == 3


def test_classes_differ_beyond_the_longest_class_list():
    names = made_up_classes(2000).names
    assert len(set(names)) == len(names) == 2000


def test_memory_is_that_of_a_pass():
    def run():
        torch.ones(50_000_000)

    work = Work(run)
    large = torch.ones(100_000_000)
    del large
    memory = Memory(work)  # from now on: not the 400 MB before
    work.run()
    assert 1.9e8 < memory.report()["above"] < 3e8


def test_arithmetic_and_traffic_are_counted():
    a, b = torch.ones(8, 9), torch.ones(9, 10)
    product = 8 * 10
    counted = count(lambda: (a @ b).view(product).exp_())
    assert counted["GFLOP"] == pytest.approx(2 * 8 * 9 * 10 / 1e9)
    # The product reads both and writes its output; the exponential reads and writes that.
    assert counted["GB"] == pytest.approx(4 * (8 * 9 + 9 * 10 + product + 2 * product) / 1e9)


def row(variant, seconds, title="a", settings=None, amounts=None, **more):
    memory = {"peak": 2_000_000_000, "above": 500_000_000}
    machine = {"processor": "CPU", "cores": 2, "versions": {"torch": "2", "python": "3"}}
    amounts = amounts or {"images": 2}
    return Row(title, settings or {}, variant, seconds, amounts, memory, machine, **more)


def test_tables_show_medians_rates_and_paired_ratios():
    text = show([row("this", [1.0, 2.0, 4.0]), row("other", [2.0, 2.0, 6.0])])
    machine, table, ratios = text.split("\n\n")
    assert machine == "CPU, 2 cores, PyTorch 2, Python 3"
    cells = [cell.strip() for cell in table.splitlines()[2].split("|")[1:-1]]
    assert cells == ["a", "this", "2.00", "1.00", "4.00", "1.00", "2.00", "0.500"]
    cells = [cell.strip() for cell in ratios.splitlines()[2].split("|")[1:-1]]
    # Medians 2 and 2; pairs 2/1, 2/2 and 6/4.
    assert cells == ["a", "1.00", "1.00", "2.00", "1.00", "1.00"]


def test_parts_are_beside_the_ceilings_of_the_machine():
    rows = [
        row("this", [2.0], "product", {"part": "matrix product"}, {"GFLOP": 100}),
        row("this", [0.5], "copy", {"part": "copy"}, {"GB": 5}),
        row("this", [4.0], "tower", {"part": "image tower"}, {"GFLOP": 150, "GB": 20, "images": 1}),
    ]
    floors = show(rows).split("\n\n")[-1].splitlines()[2:]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in floors]
    # 50 GFLOP/s and 10 GB/s.
    assert cells == [["tower", "150", "20.0", "4.00", "3.00", "2.00"]]


def test_plot_has_a_line_for_each_variant(tmp_path):
    rows = [
        {
            "settings": {"classes": classes},
            "variant": variant,
            "seconds": [1.0, 2.0],
            "memory": {"above": 1e9},
            "error": "",
        }
        for variant in ("fast", "plain")
        for classes in (1, 150, 10000)
    ]
    results, plot = tmp_path / "results.json", tmp_path / "figures" / "plot.svg"
    results.write_text(json.dumps({"rows": rows}))
    words = ("plot", str(results), "--output", str(plot))
    assert benchmark(*words).returncode == 0
    first = plot.read_bytes()
    ElementTree.fromstring(first)
    assert b"fast" in first
    assert b"10,000" in first
    assert benchmark(*words).returncode == 0
    assert plot.read_bytes() == first
    results.write_text(json.dumps({"rows": [{**rows[0], "error": "killed"}]}))
    done = benchmark(*words)
    assert done.stderr == f"error: no row was measured in {results}\n"
