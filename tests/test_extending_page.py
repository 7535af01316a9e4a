"""The examples of docs/extending.md, in their order."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from ita.cli import main
from tests.pages import DOCS, blocks

PAGE = DOCS / "extending.md"


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """The variables that all examples leave."""
    values = {}
    export, make = "".join(blocks(PAGE, "bash")).splitlines()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        patch.setenv(*export.removeprefix("export ").split("="))
        assert main(make.split()[1:]) == 0
        for block in blocks(PAGE, "python"):
            exec(compile(block, str(PAGE), "exec"), values)
        yield values
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.remove("drawn_val")


def test_the_data_set_and_its_metrics(values):
    assert len(values["records"]) == 4
    assert set(values["results"]) == {"sem_seg", "confusions", "borders"}
    assert 50 < values["results"]["sem_seg"]["mIoU"] < 100


def test_accuracy_near_borders(values):
    label = np.zeros((9, 9), np.int32)
    label[:, 4:] = 1
    label[8] = -1

    class Truth:
        def classes(self, record):
            return label

    evaluator = values["BorderAccuracy"](Truth(), width=1)
    prediction = torch.zeros(9, 9, dtype=torch.int64)  # wrong on the right of the border
    evaluator.process([{}], [{"label_map": prediction}])
    # Rows 0 to 6 have two pixels near the border; row 7 is near the ignored one.
    assert evaluator.evaluate()["borders"]["accuracy"] == pytest.approx(100 * (7 + 4) / (14 + 9))


def test_the_backbones(values):
    assert values["small"].backbone.embed_dim == 32
    assert len(values["small"].backbone.channels) == 4
    torch.testing.assert_close(values["region"], values["image"])


def test_the_ranking_is_more_diverse(values):
    before, after = values["before"], values["after"]
    assert before.dominant[0] == after.dominant[0]
    names = [[name for name, _ in result.dominant] for result in (before, after)]
    assert names[0] != names[1]
    assert len(set(names[1])) == len(names[1]) == len(names[0])

    def resemblance(names):
        features = values["predictor"].embed_text(names)
        return (features @ features.T).mean()

    assert resemblance(names[1]) < resemblance(names[0])


def test_without_diversity_the_ranking_is_the_original_one(values):
    values["replace_ranking"](values["predictor"].model, diversity=0.0)
    again = values["predictor"].segment(values["picture"], values["metadata"].class_list)
    assert again.dominant == values["before"].dominant


def test_the_config_key(values):
    assert values["model"].dominant.num_dominant == 8
    assert values["model"].dominant.diversity == 0.5
