"""The examples of docs/python.md, in their order."""

import pytest

import ita
from ita.cli import main
from tests.pages import DOCS, blocks

PAGE = DOCS / "python.md"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The values that all examples leave, and their folder."""
    folder, values = tmp_path_factory.mktemp("page"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in "".join(blocks(PAGE, "bash")).splitlines():
            words = command.split()
            assert words[0] == "ita"
            assert main(words[1:]) == 0
        for block in blocks(PAGE, "python"):
            exec(compile(block, str(PAGE), "exec"), values)
    return values, folder


def test_every_example_runs(page):
    values, folder = page
    assert values["result"].label_map.shape == values["scores"].shape[1:]
    assert {segment.name for segment in values["panoptic"].segments} <= set(values["result"].names)
    assert len(values["sure"]) > 0
    assert len(values["both"]) == 2
    assert values["heat"].shape == (2, *values["embedding"].masks.shape[1:])
    for name in ("overlay.png", "labels.png", "model/config.yaml"):
        assert (folder / "output" / name).is_file()


def test_the_page_names_every_public_class_and_method():
    text = PAGE.read_text(encoding="utf-8")
    methods = [
        *(name for name in vars(ita.Predictor) if not name.startswith("_")),
        *(name for name in vars(ita.Segmentation) if not name.startswith("_")),
    ]
    internal = {"segmenter", "autocast", "to_image"}
    assert [name for name in methods if name not in internal and name not in text] == []
