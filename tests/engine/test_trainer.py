import copy
import itertools
import json
import logging
import math

import pytest
import torch
from torch import nn

from ita.data.registration import class_list_for
from ita.engine.setup import seed_process
from ita.engine.step import OptimizerStep
from ita.engine.trainer import Trainer
from ita.engine.training_parts import scale_to_world
from ita.errors import UserError
from ita.toy.dataset import CLASS_LISTS as TOY_LISTS


def flat(state, prefix=""):
    """Leaves of nested dicts and lists, by path."""
    items = state.items() if isinstance(state, dict) else enumerate(state)
    leaves = {}
    for key, value in items:
        if isinstance(value, (dict, list, tuple)):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def assert_same_state(one, other):
    one, other = flat(one), flat(other)
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[key]), key
        else:
            assert value == other[key], key


def trained(trainer):
    return {k: p.detach().clone() for k, p in trainer.model.named_parameters() if p.requires_grad}


SHORT = {
    "SOLVER__MAX_ITER": 4,
    "SOLVER__STEPS": (3,),
    "SOLVER__CHECKPOINT_PERIOD": 2,
    "SOLVER__GRADIENT_ACCUMULATION_STEPS": 2,
    "SOLVER__AMP__ENABLED": True,
    "SOLVER__AMP__DTYPE": "float16",
    "DATASETS__TEST": (),
}


def test_resumed_where_it_stopped(tiny_config, tmp_path, caplog):
    """Weights, optimizer, schedule, loss scale and iteration; then on to the end, no further."""
    caplog.set_level(logging.INFO)
    folder = tmp_path / "run"
    torch.manual_seed(0)
    trainer = Trainer(tiny_config(**SHORT))
    # A scale at which the first steps do not overflow.
    trainer.step.scaler.load_state_dict({**trainer.step.scaler.state_dict(), "scale": 256.0})
    frozen = copy.deepcopy(trainer.model.backbone.state_dict())
    before = trained(trainer)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert_same_state(trainer.model.backbone.state_dict(), frozen)
    assert all(not torch.equal(before[k], v) for k, v in trained(trainer).items())

    (folder / "last_checkpoint").write_text("model_0000001.pth")
    written = torch.load(folder / "model_0000001.pth", weights_only=True)
    resumed = Trainer(tiny_config(**SHORT))
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    assert_same_state(resumed.state_dict(), written["trainer"])
    assert len(written["trainer"]["step"]["optimizer"]["state"]) == len(before)
    weights = resumed.model.state_dict()
    assert_same_state({k: weights[k] for k in written["model"]}, written["model"])
    assert written["model"].keys() == weights.keys() - resumed.model.frozen_state_keys()
    assert resumed.step.scaler.get_scale() == 256
    assert resumed.scheduler.get_last_lr()[0] == pytest.approx(0.001)
    resumed.train()
    assert resumed.scheduler.last_epoch == 4
    assert resumed.scheduler.get_last_lr()[0] == pytest.approx(0.0001)
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"

    finished = Trainer(tiny_config(**SHORT))
    finished.resume_or_load(resume=True)
    weights = trained(finished)
    finished.train()
    assert_same_state(trained(finished), weights)
    assert "Nothing to train" in caplog.text
    assert "model_final.pth has finished all 4 iterations" in caplog.text


def test_models_of_one_seed_see_the_same_images(tiny_config):
    """Turned, scaled and cropped alike, so that what differs is the model's doing."""
    seen = []
    for dominant in (0, 4):
        keys = {"MODEL__ITA__NUM_DOMINANT": dominant, "DATALOADER__NUM_WORKERS": 1}
        cfg = tiny_config(**{**SHORT, "SOLVER__CHECKPOINT_PERIOD": 0, **keys})
        seed_process(cfg)
        trainer = Trainer(cfg)
        images = []
        trainer.model.register_forward_hook(
            lambda _, args, __, images=images: images.extend(r["image"] for r in args[0])
        )
        trainer.train()
        seen.append(images)
    assert len(seen[0]) == 8
    assert all(map(torch.equal, *seen))


def test_skipped_steps_are_iterations(tiny_config, tmp_path, recwarn):
    """They advance the schedule, and PyTorch does not complain about it."""
    trainer = Trainer(tiny_config(**{**SHORT, "SOLVER__CHECKPOINT_PERIOD": 0}))
    trainer.step.scaler.load_state_dict({**trainer.step.scaler.state_dict(), "scale": 2.0**100})
    before = trained(trainer)
    trainer.train()
    assert_same_state(trained(trainer), before)
    assert trainer.step.skipped == trainer.scheduler.last_epoch == 4
    assert not [w for w in recwarn if "lr_scheduler" in str(w.message)]
    assert [path.name for path in (tmp_path / "run").glob("*.pth")] == ["model_final.pth"]


def test_resumed_with_another_model_part(tiny_config):
    """A state that does not fit the optimizer is an error in one line, not a traceback."""
    trainer = Trainer(tiny_config(**SHORT, MODEL__ITA__NUM_DOMINANT=0))
    trainer.checkpointer.save("model_0000001", iteration=1)
    with pytest.raises(UserError) as caught:
        Trainer(tiny_config(**SHORT)).resume_or_load(resume=True)
    assert "model_0000001.pth" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def renamed(tmp_path):
    """The toy classes under other names, which no training class has."""
    lines = [
        line.replace(": ", ": other ")
        for line in (TOY_LISTS / "toy.txt").read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]
    path = tmp_path / "renamed.txt"
    path.write_text("\n".join(lines))
    return path


def test_evaluation_during_training(tiny_config, tmp_path, renamed, caplog):
    """Each set is evaluated with its own vocabulary; training goes on with that of training."""
    caplog.set_level(logging.INFO)
    trainer = Trainer(
        tiny_config(
            SOLVER__MAX_ITER=3,
            TEST__EVAL_PERIOD=2,
            DATASETS__TEST=("toy_val", "toy_train"),
            DATASETS__TEST_VOCABULARY=(str(renamed), ""),
        )
    )
    in_use = []
    trainer.model.decoder.register_forward_hook(
        lambda _, args, __: in_use.append((torch.is_grad_enabled(), args[2].num_classes))
    )
    results = trainer.train()
    seen, every = len(class_list_for("toy_train")), len(class_list_for("toy_val"))
    evaluation = [(False, every)] * 5 + [(False, seen)] * 6
    training = (True, seen)
    assert in_use == [training] * 2 + evaluation + [training] + evaluation

    infos = {name: result["info"] for name, result in results.items()}
    assert {name: info["images"] for name, info in infos.items()} == {"toy_val": 5, "toy_train": 6}
    assert infos["toy_val"]["class_list"] == str(renamed)
    written = json.loads((tmp_path / "run" / "results.json").read_text())
    assert written["run"]["iteration"] == 3
    assert written["results"]["toy_val"]["info"] == infos["toy_val"]
    assert written["results"]["toy_train"]["sem_seg"]["mIoU"] == pytest.approx(
        results["toy_train"]["sem_seg"]["mIoU"]
    )
    assert "toy_train: 6 images, class list toy_seen, training class list toy_seen" in caplog.text

    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    by_iteration = {line["iteration"]: line for line in map(json.loads, lines)}
    assert {"total_loss", "loss_ce", "loss_dice_0", "grad_norm", "lr"} <= by_iteration[2].keys()
    assert "toy_val/sem_seg/mIoU" in by_iteration[3]
    progress = [m for m in caplog.messages if m.startswith("iter 3/3")]
    assert len(progress) == 1
    for word in ("eta ", "images/s", "memory ", "skipped images 0", "grad_norm "):
        assert word in progress[0]
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))
    assert list((tmp_path / "run" / "inference" / "toy_val" / "pictures").glob("*.png"))


def first_losses(cfg):
    """Losses of the first iteration and the types of products within it."""
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    types = {}
    for name, module in trainer.model.named_modules():
        if isinstance(module, nn.Linear) and not name.startswith("backbone"):
            module.register_forward_hook(
                lambda _, inputs, output, name=name: types.update({name: output.dtype})
            )
    trainer.model.prepare_training()
    seed_process(cfg)  # the augmentation's too
    return trainer.step([next(iter(trainer.data_loader))]).losses, types


def test_mixed_precision_on_the_cpu(tiny_config):
    expected, types = first_losses(tiny_config(DATASETS__TEST=()))
    assert set(types.values()) == {torch.float32}
    losses, types = first_losses(tiny_config(DATASETS__TEST=(), SOLVER__AMP__ENABLED=True))
    decoder = {dtype for name, dtype in types.items() if name.startswith("decoder.")}
    assert torch.bfloat16 in decoder
    total, exact = sum(losses.values()), sum(expected.values())
    assert total == pytest.approx(exact, rel=0.02)
    assert total != exact


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision_on_a_gpu(tiny_config, dtype):
    on_gpu = {"DATASETS__TEST": (), "MODEL__DEVICE": "cuda"}
    expected, _ = first_losses(tiny_config(**on_gpu))
    mixed = {"SOLVER__AMP__ENABLED": True, "SOLVER__AMP__DTYPE": dtype}
    losses, types = first_losses(tiny_config(**on_gpu, **mixed))
    assert getattr(torch, dtype) in types.values()
    assert sum(losses.values()) == pytest.approx(sum(expected.values()), rel=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_for_a_gpu_are_pinned(tiny_config):
    trainer = Trainer(tiny_config(DATASETS__TEST=(), MODEL__DEVICE="cuda"))
    trainer.resume_or_load(resume=False)
    record = next(iter(trainer.data_loader))[0]
    assert record["image"].is_pinned()
    assert record["instances"].gt_masks.index.is_pinned()


def diverging(trainer, steps):
    """Make a loss nan in the calls of the criterion with these numbers."""
    calls = itertools.count()

    def diverge(criterion, inputs, losses):
        if next(calls) in steps:
            losses["loss_mask_0"] = losses["loss_mask_0"] * float("nan")

    trainer.model.criterion.register_forward_hook(diverge)


@pytest.mark.parametrize("updated", [False, True])
def test_a_checkpoint_has_weights_and_schedule_of_one_step(updated, tiny_config, tmp_path):
    """A worker may be killed at any moment, also between the two."""
    keys = {"SOLVER__MAX_ITER": 5, "SOLVER__CHECKPOINT_PERIOD": 0, "DATASETS__TEST": ()}
    trainer = Trainer(tiny_config(**keys))

    class Killed(OptimizerStep):
        def __call__(self, batches, *, iteration, **more):
            done = None
            if updated or iteration < 2:
                done = super().__call__(batches, iteration=iteration, **more)
            if iteration == 2:
                raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
            return done

    trainer.step.__class__ = Killed
    with pytest.raises(UserError, match="a data loader worker was killed"):
        trainer.train()
    saved = [path.name for path in (tmp_path / "run").glob("*.pth")]
    assert saved == ([] if updated else ["model_0000001.pth"])


def test_divergence_ends_training_in_one_line(tiny_config, tmp_path):
    """What was measured before it is written, and what is known about it; no weights are."""
    folder = tmp_path / "run"
    trainer = Trainer(tiny_config(DATASETS__TEST=(), SOLVER__MAX_ITER=50))
    diverging(trainer, {2})
    with pytest.raises(UserError, match=r"^training diverged at iteration 2: loss_mask_0 = nan, "):
        trainer.train()
    assert not list(folder.glob("*.pth"))
    assert "total_loss" in (folder / "metrics.json").read_text()
    content = json.loads((folder / "nonfinite_0000002.json").read_text())
    (batch,) = content["micro_batches"]
    assert batch["losses"]["loss_mask_0"] == "nan"
    assert math.isfinite(batch["losses"]["loss_ce"])
    assert content["precision"] == "float32"
    # Seed and position give the same images again.
    assert content["run"] == {"seed": 3, "position": 4, "num_images": 6, "world_size": 1}
    again = Trainer(tiny_config(DATASETS__TEST=()))
    again.state.position = content["run"]["position"]
    again.resume_or_load(resume=False)
    files = [record["file_name"] for record in next(iter(again.data_loader))]
    assert batch["files"] == files


def test_a_step_that_is_not_finite_is_skipped_on_request(tiny_config, tmp_path, caplog):
    keys = {"DATASETS__TEST": (), "SOLVER__MAX_ITER": 4, "SOLVER__ON_NONFINITE": "skip"}
    trainer = Trainer(tiny_config(**keys))
    diverging(trainer, {1, 2})
    trainer.train()
    assert sum("skipped iteration" in message for message in caplog.messages) == 2
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").open()]
    by_iteration = {line["iteration"]: line for line in lines}
    assert by_iteration[2]["nonfinite_steps"] == 2
    assert math.isfinite(by_iteration[3]["total_loss"])
    assert all(weight.isfinite().all() for weight in trained(trainer).values())
    resumed = Trainer(tiny_config(**keys))
    resumed.resume_or_load()
    assert resumed.nonfinite.skipped == 2


def test_scaling_to_the_number_of_processes(tiny_config):
    cfg = tiny_config(
        SOLVER__IMS_PER_BATCH=16,
        SOLVER__REFERENCE_WORLD_SIZE=8,
        SOLVER__MAX_ITER=1000,
        SOLVER__BASE_LR=0.1,
    )
    scaled = scale_to_world(cfg, 2).SOLVER
    assert (scaled.IMS_PER_BATCH, scaled.MAX_ITER) == (4, 4000)
    assert abs(scaled.BASE_LR - 0.025) < 1e-9
    cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS = 4
    with pytest.raises(UserError, match=r"IMS_PER_BATCH \(4\).*2 processes × 4"):
        scale_to_world(cfg, 2)
    cfg.SOLVER.IMS_PER_BATCH = 15
    with pytest.raises(UserError, match="REFERENCE_WORLD_SIZE"):
        scale_to_world(cfg, 2)
