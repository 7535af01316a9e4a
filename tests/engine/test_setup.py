import pytest
import torch

from ita.cli import main
from ita.engine import setup
from ita.engine.job import start_process
from ita.engine.setup import choose_device, choose_seed, require_device, seed_process
from ita.errors import UserError


def test_every_process_draws_numbers_of_its_own(tiny_config, monkeypatch):
    """The same on every run of a seed, others on another rank or seed."""

    def draw(rank=0, seed=3):
        monkeypatch.setattr(setup.comm, "get_rank", lambda: rank)
        seed_process(tiny_config(SEED=seed))
        return torch.rand(1).item()

    assert draw() == draw()
    assert len({draw(), draw(rank=1), draw(seed=8), draw(seed=-1)}) == 4


def test_devices_that_are_not_there(tiny_config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    choose_device(tiny_config(MODEL__DEVICE="cuda:1"))
    with pytest.raises(UserError, match=r"DEVICE is cuda:2; .* visible are cuda:0 to cuda:1"):
        choose_device(tiny_config(MODEL__DEVICE="cuda:2"))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"DEVICE is mps; there is no GPU of Apple; choose cpu"):
        choose_device(tiny_config(MODEL__DEVICE="mps"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_training_does_not_fall_back_to_the_cpu(tiny_config, capsys):
    with pytest.raises(UserError, match=r"no GPU is visible .* append: MODEL\.DEVICE cpu"):
        require_device(tiny_config(MODEL__DEVICE="cuda"))
    require_device(tiny_config(MODEL__DEVICE="cpu"))
    config = "configs/coco/semantic-segmentation/ita/ita_convnext_large_eval_ade20k.yaml"
    with pytest.raises(SystemExit, match="1"):
        main(["train", "--config-file", config])
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: no GPU is visible")


def test_a_drawn_seed_reproduces_the_run(tiny_config):
    def draw(cfg):
        choose_seed(cfg)
        seed_process(cfg)
        return torch.rand(1).item()

    cfg, other = tiny_config(SEED=-1), tiny_config(SEED=-1)
    drawn = draw(cfg)
    assert cfg.SEED >= 0
    assert draw(tiny_config(SEED=cfg.SEED)) == drawn
    assert draw(other) != drawn
    assert other.SEED != cfg.SEED


def test_the_log_has_the_seed(tiny_config, tmp_path):
    cfg = tiny_config(SEED=-1)
    log = start_process(cfg)
    log.open_folder(cfg)
    (line,) = [
        line for line in (tmp_path / "run" / "log.txt").read_text().splitlines() if "SEED" in line
    ]
    assert f"Full config, with SEED {cfg.SEED}: {tmp_path / 'run' / 'config.yaml'}" in line
