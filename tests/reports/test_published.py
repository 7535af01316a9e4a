"""The table of published results, and tables of one's own."""

from pathlib import Path

import pytest

from ita.data.catalogue import CATALOGUE
from ita.errors import UserError
from ita.reports.published import read_table

# Of FC-CLIP's logs (ConvNeXt-L), rounded.
LOGS = {
    "a847": 14.79,
    "pc459": 18.24,
    "ade20k": 34.07,
    "pc59": 58.36,
    "pas21": 81.77,
    "pas20": 95.35,
    "coco": 63.72,
}
ONE = "models: {mine: {config: c.yaml, results: {ade20k: {mIoU: 30.5, class_list: ade150}}}}"


def test_the_packaged_table():
    table = read_table()
    assert set(table.data_sets) == {row.family for row in CATALOGUE}
    published = table.models["fcclip_convnext_large"].results
    rounded = {family: round(published[family].metrics["mIoU"], 2) for family in LOGS}
    assert rounded == LOGS
    fcclip = [model for name, model in table.models.items() if name.startswith("fcclip")]
    assert len(fcclip) == 6
    for model in fcclip:
        assert set(model.results) == set(table.data_sets)
        assert model.training_class_list == table.data_sets["coco"].class_list


def test_a_table_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(ONE)
    table = read_table(path)
    (model,) = table.models.values()
    assert (model.title, model.features, model.training_class_list) == ("mine", None, "")
    result = table.published(model, "ade20k")
    assert (result.metrics, result.class_list, result.images) == ({"mIoU": 30.5}, "ade150", 0)
    nothing = table.published(model, "pc59")
    assert (nothing.metrics, nothing.class_list) == ({}, "pascal_ctx_59_with_prompt_eng.txt")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("models:", "model:", "has no models"),
        ("config:", "confg:", "unknown key confg; did you mean config?"),
        ("config: c.yaml", "title: c", "has no config"),
        ("ade20k:", "ade:", "unknown key ade"),
        ("mIoU:", "MIOU:", "unknown key MIOU; expected one of mIoU"),
        ("30.5", "high", "mIoU is 'high'; it must be a number"),
        ("30.5", ".nan", "mIoU is nan; it must be a number"),
        ("30.5", "305", "must be in percent"),
        ("{ade20k", "[ade20k", "cannot read"),
        ("results:", "features: {embedding: 3}, results:", "features has no last_stage"),
    ],
)
def test_mistakes(old, new, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(ONE.replace(old, new))
    with pytest.raises(UserError) as error:
        read_table(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_the_model_zoo_has_the_same_numbers():
    table = read_table()
    zoo = (Path(__file__).resolve().parents[2] / "MODEL_ZOO.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in zoo.splitlines()]
    titles = next(row for row in rows if row[0] == "model")
    models = {model.title: model for model in table.models.values()}
    found = [row for row in rows if row[0].startswith("FC-CLIP (")]
    assert len(found) == 6
    for row in found:
        cells = dict(zip(titles, row, strict=True))
        for family, data_set in table.data_sets.items():
            cell = cells[data_set.title]
            miou = models[row[0]].results[family].metrics["mIoU"]
            assert cell == f"{miou:.{len(cell.partition('.')[2])}f}"
