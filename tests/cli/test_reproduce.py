"""``ita reproduce`` on benchmarks in miniature, with a tiny model."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import yaml

from ita.classes import read_class_list
from ita.cli import INTERRUPTED, main
from ita.engine.benchmark_lists import short_hash
from ita.engine.checkpoint import CLASSES
from ita.files import PACKAGE
from ita.reports.reproduction import HEADERS
from ita.segmenter import Segmenter
from tests.cli import mini_results

TITLES = {
    "ade20k": "A-150",
    "a847": "A-847",
    "pc59": "PC-59",
    "pc459": "PC-459",
    "pas20": "PAS-20",
    "pas21": "PAS-21",
}


# More threads are slower on small tensors.
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def mini(tmp_path_factory, one_thread):
    return mini_results.make(tmp_path_factory.mktemp("mini"))


@pytest.fixture
def reproduce(mini, tmp_path, monkeypatch):
    """Run the command in this process: options, overrides -> exit code, segmented images."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(mini.data))
    segmented = []
    segment = Segmenter.__call__

    def note(segmenter, records):
        segmented.extend(record["file_name"] for record in records)
        return segment(segmenter, records)

    monkeypatch.setattr(Segmenter, "__call__", note)

    def run(*options, published=None, weights=mini.weights, overrides=()):
        segmented.clear()
        published = published or mini.publish(tmp_path / "published.yaml")
        output = ["--output", str(tmp_path / "out"), "--published", str(published)]
        words = ["--weights", str(weights), *output, *map(str, options), *mini.words, *overrides]
        return main(["reproduce", *words]), list(segmented)

    return run


@pytest.fixture
def report(tmp_path):
    """Read the report: data set -> its cells in the table of mIoU, and the conclusion."""

    def read():
        lines = (tmp_path / "out" / "report.md").read_text().splitlines()
        rows = [[c.strip() for c in line.strip("|").split("|")] for line in lines if "|" in line]
        rows = [row for row in rows if len(row) == len(HEADERS)]
        cells = {row[0]: dict(zip(HEADERS, row, strict=True)) for row in rows[2:]}
        return cells, next(line for line in lines if line.startswith("**")).strip("*")

    return read


def test_numbers_are_those_of_the_independent_script(mini, tmp_path):
    """In processes of their own: the exit codes, and that nothing is evaluated twice."""

    def run(published):
        words = ["--weights", mini.weights, "--datasets", mini.data, "--output", tmp_path / "out"]
        words += ["--published", published, *mini.words]
        return subprocess.run(
            [sys.executable, "-m", "ita", "reproduce", *map(str, words)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=mini_results.REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )

    first = run(mini.publish(tmp_path / "published.yaml"))
    assert first.returncode == 0, first.stdout + first.stderr
    conclusion = first.stdout.splitlines()[-1]
    assert conclusion.startswith("REPRODUCED: Tiny, mIoU within 0.2")
    assert first.stdout.count(": Evaluating 2 images of ") == len(TITLES)
    for family, miou in mini.mious.items():
        assert 5 < miou < 90
        cells = next(
            line.split()
            for line in first.stdout.splitlines()
            if line.startswith(TITLES[family]) and "reproduced" in line
        )
        assert cells[:4] == [TITLES[family], f"{miou:.2f}", f"{miou:.2f}", "+0.00"]
        assert cells[4:9] == ["reproduced", "2", "of", "2", mini_results.SETS[family][1]]
        assert cells[9] == "float32"

    second = run(mini.publish(tmp_path / "published.yaml", pas21=0.3, pc59=-0.19))
    assert second.returncode == 1, second.stdout + second.stderr
    assert second.stdout.splitlines()[-1] == "NOT REPRODUCED: Tiny; PAS-21 differs by -0.30 mIoU"
    assert "Evaluating" not in second.stdout
    assert second.stdout.count("stored results") == len(TITLES)


def test_only_what_changed_is_evaluated_again(mini, reproduce, report, tmp_path):
    options = ["--set", "pas20", "--set", "pas21"]
    assert reproduce(*options)[0] == 0
    assert reproduce(*options) == (0, [])
    everything = reproduce(*options, "--redo")[1]
    assert len(everything) == 4
    assert (
        reproduce(*options, overrides=["DATALOADER.NUM_WORKERS", "0", "TEST.NUM_PICTURES", "0"])[1]
        == []
    )
    assert reproduce(*options, overrides=["TEST.AMP", "True"])[1] == everything
    assert report()[0]["PAS-20"]["precision"] == "bfloat16"
    assert len(reproduce(*options)[1]) == 4

    label = mini.data / "pascal_voc_d2/annotations_pascal21/validation/2007_000001.png"
    os.utime(label, (1, 1))
    assert reproduce(*options)[1] == everything[2:]
    copy = tmp_path / "other.pth"
    shutil.copy(mini.weights, copy)
    assert reproduce(*options, weights=copy)[1] == []
    with open(copy, "ab") as file:
        file.write(b" ")
    assert reproduce(*options, weights=copy)[1] == everything


def test_an_interrupted_run_keeps_finished_sets(reproduce, report, monkeypatch, tmp_path):
    options = ["--set", "pc59", "--set", "pas20", "--set", "pas21"]
    segment, segmented = Segmenter.__call__, []

    def stop(segmenter, records):
        segmented.extend(records)
        if len(segmented) > 4:
            raise KeyboardInterrupt
        return segment(segmenter, records)

    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "__call__", stop)
        assert reproduce(*options)[0] == INTERRUPTED
    assert not (tmp_path / "out" / "report.md").exists()
    code, images = reproduce(*options)
    assert (code, len(images)) == (0, 2)
    assert set(report()[0]) == {"PC-59", "PAS-20", "PAS-21"}


def test_incomplete_sets_claim_nothing(mini, reproduce, report, tmp_path):
    text = mini.publish(tmp_path / "complete.yaml").read_text().replace("images: 2", "images: 5")
    (tmp_path / "complete.yaml").write_text(text)
    options = ["--set", "pas20"]
    assert reproduce(*options, published=tmp_path / "complete.yaml") == (1, [])
    cells, conclusion = report()
    assert cells == {}
    assert "PAS-20 was not evaluated; no data set was evaluated" in conclusion
    code, images = reproduce(*options, "--subset", published=tmp_path / "complete.yaml")
    assert (code, len(images)) == (1, 2)
    cells, conclusion = report()
    assert cells["PAS-20"]["difference"] == "+0.00"
    assert cells["PAS-20"]["result"] == "other images"
    assert conclusion == "NOT REPRODUCED: Tiny; PAS-20 has 2 of 5 images"


def test_absent_sets_are_listed_with_a_remedy(mini, reproduce, report, tmp_path, monkeypatch):
    data = tmp_path / "data"
    mini_results.mini_sets.voc_raw(data)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    assert reproduce()[0] == 1
    cells, conclusion = report()
    assert set(cells) == {"PAS-20", "PAS-21"}
    assert "was not evaluated" not in conclusion
    text = (tmp_path / "out" / "report.md").read_text()
    assert f"- A-150: data set openvocab_ade20k_panoptic_val not found: looked for {data}" in text


@pytest.fixture
def published_lists(tmp_path):
    """A folder of class lists with published names and in the published format."""
    names = {"coco133": "coco_panoptic", "pas21": "pascal_voc_21", "pc59": "pascal_ctx_59"}
    folder = tmp_path / "lists"
    folder.mkdir()
    for own, name in names.items():
        classes = read_class_list(own).classes
        lines = [f"{i}:{','.join(c)},another {i}" for i, c in enumerate(classes, own != "pas21")]
        lines[:0] = [] if own == "pas21" else ["0:invalid_class_id"]
        (folder / f"{name}_with_prompt_eng.txt").write_text("\n".join(lines))
    return folder


def test_published_class_lists(mini, reproduce, report, published_lists, tmp_path):
    """PAS-20's is PAS-21's without its background."""
    text = mini.publish(tmp_path / "lists.yaml").read_text()
    lines = [line for line in text.splitlines(True) if "class_list: p" not in line]
    text = "".join(lines).replace("list: coco133", "list: coco_panoptic_with_prompt_eng.txt")
    (tmp_path / "lists.yaml").write_text(text)
    options = ["--set", "pas20", "--set", "pc59"]
    code, _ = reproduce(*options, published=tmp_path / "lists.yaml")
    assert code == 1
    cells, conclusion = report()
    assert {row["result"] for row in cells.values()} == {"other class list"}
    reason = "class list is not the published one, training class list is not the published one"
    assert conclusion == f"NOT REPRODUCED: Tiny; PC-59, PAS-20: {reason}"
    text = (tmp_path / "out" / "report.md").read_text()
    hashed = short_hash(read_class_list("pc59"))
    wanted = "not the published pascal_ctx_59_with_prompt_eng.txt, 59 classes"
    assert f"class list of PC-59: `pc59, hash {hashed}, {wanted}" in text

    options += ["--class-lists", published_lists]
    code, images = reproduce(*options, published=tmp_path / "lists.yaml")
    assert len(images) == 4
    cells, _ = report()
    assert {row["result"] for row in cells.values()} <= {"reproduced", "differs"}
    assert cells["PC-59"]["class list"] == "pascal_ctx_59_with_prompt_eng.txt"
    assert cells["PAS-20"]["class list"] == "pascal_voc_20_with_prompt_eng.txt"
    made = read_class_list(tmp_path / "out/class_lists/pascal_voc_20_with_prompt_eng.txt")
    assert made.classes == tuple(
        (*c, f"another {i}") for i, c in enumerate(read_class_list("pas21").classes) if i
    )
    text = (tmp_path / "out" / "report.md").read_text()
    path = published_lists / "coco_panoptic_with_prompt_eng.txt"
    hashed = short_hash(read_class_list(path))
    assert f"training class list: `{path}, hash {hashed}, 133 classes`" in text


def test_a_list_of_the_published_name_with_other_classes(mini, reproduce, report, tmp_path):
    """Such as the one in a checkpoint of an older version."""
    content = torch.load(mini.weights, weights_only=True)
    coco = read_class_list("coco133")
    for name, first, code in (("same", coco.classes[0], 0), ("other", ("man",), 1)):
        class_list = replace(coco, classes=(first, *coco.classes[1:]))
        path = tmp_path / f"{name}.pth"
        torch.save({**content, CLASSES: class_list.to_dict()}, path)
        assert reproduce("--set", "pas20", weights=path)[0] == code
    cells, conclusion = report()
    assert cells["PAS-20"]["result"] == "other class list"
    reason = "PAS-20: training class list has other classes than the published one"
    assert conclusion == f"NOT REPRODUCED: Tiny; {reason}"


def test_other_spellings_of_paths_and_results_that_nothing_is_compared_with(
    mini, reproduce, report, tmp_path, monkeypatch
):
    """Incomplete sets without a published mIoU do not count."""
    table = yaml.safe_load(mini.publish(tmp_path / "one.yaml").read_text())
    results = table["models"]["tiny"]["results"]
    table["models"]["tiny"]["results"] = {"pas20": results["pas20"]}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(table))
    lists = ["DATASETS.TRAIN_VOCABULARY", "lists/coco133.txt"]
    shutil.copytree(PACKAGE / "class_lists", tmp_path / "lists")
    monkeypatch.chdir(tmp_path)
    code, images = reproduce(published=tmp_path / "one.yaml", overrides=lists)
    assert (code, len(images)) == (0, 2)
    assert set(report()[0]) == {"PAS-20"}
    lists[1] = str(tmp_path / lists[1])
    monkeypatch.setenv("DETECTRON2_DATASETS", os.path.relpath(mini.data))
    assert reproduce(published=tmp_path / "one.yaml", overrides=lists) == (0, [])


def test_the_first_of_two_processes_decides(mini, tmp_path):
    """The other one finds another set to evaluate, alone, which would never end."""
    words = ["--weights", mini.weights, "--datasets", mini.data, "--output", tmp_path / "out"]
    words += ["--published", mini.publish(tmp_path / "published.yaml"), *mini.words]
    script = (
        'test $RANK = 0 || more="--set pas21"; exec "$0" -m ita reproduce --set pas20 $more "$@"'
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    run = subprocess.run(
        [*launcher, "--nproc-per-node=2", "--no-python", "sh", "-c", script, sys.executable,
         *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=mini_results.REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    conclusions = [line for line in run.stdout.splitlines() if line.startswith("REPRODUCED")]
    assert conclusions == ["REPRODUCED: Tiny, mIoU within 0.2 of the published one on PAS-20"]
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == {"pas20"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "tinny"], "unknown model tinny; did you mean tiny?"),
        (["--class-lists", "nowhere", "--set", "pc59"], "--class-lists nowhere has no file"),
        (["--weights", "nowhere.pth"], "nowhere.pth"),
        (["--published", "nowhere.yaml"], "cannot read nowhere.yaml"),
        (["--config-file", "nowhere.yaml"], "config file not found: nowhere.yaml"),
        (["DATASETS.TEST", "x"], "DATASETS.TEST cannot be set here; use --set"),
        (["OUTPUT_DIR", "x"], "OUTPUT_DIR cannot be set here; use --output"),
    ],
)
def test_mistakes_are_one_line(options, message, mini, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(mini.data))
    published = mini.publish(tmp_path / "published.yaml")
    text = "".join(
        line for line in published.read_text().splitlines(True) if "class_list: pc59" not in line
    )
    published.write_text(text)
    words = ["--weights", str(mini.weights), "--published", str(published)]
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", *words, "--output", str(tmp_path / "out"), *options])
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "out").exists()
