import itertools

import pytest

from tests.evaluation.scenes import registered, write_scenes

_numbers = itertools.count()


@pytest.fixture(scope="session")
def scenes_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "toy"
    write_scenes(folder)
    return folder


@pytest.fixture
def scenes(scenes_folder):
    with registered(scenes_folder, f"scenes_{next(_numbers)}") as scenes:
        yield scenes
