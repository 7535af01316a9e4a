import pytest
import torch

import ita.meta_arch  # noqa: F401  (registers the model)
from ita.config import load_config
from ita.toy.dataset import make_toy_dataset
from tests.engine.tiny import CONFIG, overrides


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory):
    """A folder for DETECTRON2_DATASETS with few small scenes, an odd number for validation."""
    root = tmp_path_factory.mktemp("datasets")
    make_toy_dataset(root / "toy", train=6, val=5, test=1, size=64)
    return root


@pytest.fixture
def tiny_config(toy_root, tmp_path, monkeypatch):
    """Makes configs that write below ``tmp_path``."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(toy_root))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def make(**more):
        more.setdefault("OUTPUT_DIR", tmp_path / "run")
        return load_config(CONFIG, overrides(**more))

    yield make
    torch.set_num_threads(threads)
