"""The cells of docs/tutorial.ipynb, in their order, and what is stored with them."""

import json
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "tutorial.ipynb"


@pytest.fixture(scope="module")
def code_cells():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def values(code_cells, tmp_path_factory):
    """The variables that the cells leave."""
    values = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("tutorial"))
        patch.setattr(plt, "show", lambda: plt.close("all"))
        with matplotlib.rc_context({"backend": "Agg"}):
            for number, cell in enumerate(code_cells, start=1):
                name = f"{NOTEBOOK.name}, code cell {number}"
                exec(compile("".join(cell["source"]), name, "exec"), values)
    return values


def test_the_text_tells_what_the_cells_compute(values):
    result = values["result"]
    assert set(np.unique(result.label_map)) == set(range(7))
    bare = ["circle", "arrow", "triangle", "heart", *values["grounds"]]
    vague = values["encoded"].segment(bare).label_map
    clear = values["encoded"].segment(["circle, checkered circle", *bare[1:]]).label_map
    circle, heart = result.label_map == 0, result.label_map == 3
    assert (vague[circle] == 0).mean() < 0.2
    assert (clear[circle] == 0).mean() > 0.8
    assert (vague[heart] == 3).mean() > 0.8
    assert (clear[heart] == 3).mean() < 0.2
    assert "wood floor" in values["names"]
    assert "purple triangle" in {c["name"] for c in values["everything"].to_json()["classes"]}
    assert len(values["panoptic"].segments) == 7
    assert {10, 20, 30, 41, 42, 43, 44} == set(values["ids"].ravel().tolist())


def test_the_mean_iou_is_that_of_the_text(values):
    iou = values["iou"]
    assert np.nanmean(iou) == pytest.approx(74.5, abs=3)  # processors round differently
    assert np.nanmean(iou[values["seen"]]) > np.nanmean(iou[~values["seen"]]) > 45


def test_outputs_are_stored_and_small(code_cells):
    """If not: python tools/run_tutorial.py"""
    assert NOTEBOOK.stat().st_size <= 300_000
    assert [cell["execution_count"] for cell in code_cells] == list(range(1, len(code_cells) + 1))
    outputs = [output for cell in code_cells for output in cell["outputs"]]
    assert sum("image" in kind for o in outputs for kind in o.get("data", {})) >= 6
    assert {o["output_type"] for o in outputs} <= {"stream", "display_data", "execute_result"}
    assert [o for o in outputs if o.get("name") == "stderr"] == []


def test_cells_are_plain_python(code_cells):
    lines = [line for cell in code_cells for line in cell["source"]]
    assert [line for line in lines if line.lstrip().startswith(("%", "!"))] == []
