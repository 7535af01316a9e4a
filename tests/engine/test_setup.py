import pytest
import torch

from ita.engine import setup
from ita.engine.setup import choose_device, seed_process
from ita.errors import UserError


def test_every_process_draws_numbers_of_its_own(tiny_config, monkeypatch):
    """The same on every run of a seed, others on another rank, seed or part of the run."""

    def draw(rank=0, seed=3, offset=0):
        monkeypatch.setattr(setup.comm, "get_rank", lambda: rank)
        seed_process(tiny_config(SEED=seed), offset)
        return torch.rand(1).item()

    assert draw() == draw()
    assert len({draw(), draw(rank=1), draw(seed=8), draw(offset=100), draw(seed=-1)}) == 5


def test_a_device_that_is_none(tiny_config):
    with pytest.raises(UserError, match=r"MODEL\.DEVICE gpu is not a device"):
        choose_device(tiny_config(MODEL__DEVICE="gpu"))
