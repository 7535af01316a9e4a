"""Every row of the table of faults."""

import pytest

from tests.faults.table import make_scenes, rows
from tests.faults.world import World


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    make_scenes(root)
    return root


def parameters():
    for theme, name, row in rows():
        marks = [pytest.mark.slow] if row.slow else []
        yield pytest.param(row, id=f"{theme}-{name}", marks=marks)


@pytest.mark.parametrize("row", list(parameters()))
def test_row(row, scenes, tmp_path):
    assert row.problems(World(tmp_path, scenes)) == []
