"""Training and inference on a GPU, without one: no tensor stays behind on the CPU."""

import copy
from dataclasses import replace

import pytest
import torch
from detectron2.structures import Instances
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError

from ita.build import inference_options
from ita.classes import ClassList
from ita.config import load_config
from ita.engine.optimizer import build_optimizer
from ita.engine.step import OptimizerStep
from ita.meta_arch import build_model
from ita.modeling.targets import SegmentMap
from ita.modeling.vocabulary import TextEncoder
from ita.segmenter import Segmenter
from tests.engine.tiny import OVERRIDES, REPOSITORY
from tests.fake_cuda import fake_cuda, values_of
from tests.test_meta_arch import TEST, fixed_points, without_zeros

TRAINING = ClassList.from_strings(
    "training", ["cat, kitten", "dog", "grass", "sky", "person, people"]
)
CONFIGS = REPOSITORY / "configs/coco/semantic-segmentation"
MAIN = CONFIGS / "ita/ita_convnext_large_eval_ade20k.yaml"
FCCLIP = CONFIGS / "fcclip/fcclip_convnext_large_eval_ade20k.yaml"
SMALLER = {**OVERRIDES, "MODEL.DEVICE": "cpu", "SOLVER.AMP.ENABLED": False}
WITHOUT_QUERIES = {**SMALLER, "MODEL.ITA.NUM_DOMINANT": 0}


def small_brother(file, settings):
    """The config's model with few and narrow layers, and the config."""
    cfg = load_config(file, [str(word) for pair in settings.items() for word in pair])
    model = without_zeros(build_model(cfg, TRAINING))
    model.criterion.point_source = model.criterion.matcher.point_source = fixed_points
    return model, cfg


def records():
    """As the training mapper makes them, one of them without a target."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for size, count in (((64, 96), 5), ((64, 64), 0)):
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
        index = torch.randint(0, count + 1, size, generator=generator).to(torch.uint8)
        classes = torch.randint(0, len(TRAINING), (count,), generator=generator)
        instances = Instances(size, gt_classes=classes, gt_masks=SegmentMap(index, count))
        made.append({"image": image, "instances": instances, "valid_size": (60, 50)})
    return made


def optimizer_step(cfg, model, device):
    step = OptimizerStep(
        model.train(),
        build_optimizer(cfg, model),
        device=torch.device(device),
        dtype=torch.float32,
        max_norm=cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE,
        norm_type=2.0,
    )
    return step([records()])


@pytest.mark.parametrize(("file", "settings"), [(MAIN, SMALLER), (FCCLIP, WITHOUT_QUERIES)])
def test_a_training_step_is_that_of_the_cpu(file, settings):
    model, cfg = small_brother(file, settings)
    on_cpu = copy.deepcopy(model)
    expected = optimizer_step(cfg, on_cpu, "cpu")
    with fake_cuda() as gpu:
        gpu.move(model)
        report = optimizer_step(cfg, model, "cuda")
    assert report.losses == pytest.approx(expected.losses, rel=1e-4)
    assert report.grad_norm == pytest.approx(expected.grad_norm, rel=1e-3)
    gradients = {name: p.grad for name, p in on_cpu.named_parameters() if p.requires_grad}
    for name, parameter in model.named_parameters():
        assert parameter.device.type == "cuda"
        if parameter.requires_grad:
            error = (values_of(parameter.grad) - gradients[name]).norm()
            assert error <= 1e-3 * gradients[name].norm() + 1e-8, name


def test_every_wait_is_counted():
    """Also those of operations whose results have a size that depends on values."""
    values = torch.tensor([0.0, 2.0, 3.0, 2.0])
    waiting = (
        lambda x: x.cpu(),
        lambda x: x.sum().item(),
        lambda x: x.nonzero(),
        lambda x: x[x > 1],
        lambda x: x.masked_select(x > 1),
        lambda x: x.unique(),
        lambda x: x.long().bincount(),
        lambda x: x.repeat_interleave(x.long()),
        lambda x: x.index_put((x > 1,), x.new_ones(1)),
        lambda x: x.clone().__setitem__(x > 1, x.new_ones(1)),
        lambda x: bool(x.any()),
    )
    with fake_cuda() as gpu:
        for number, wait in enumerate(waiting, start=1):
            wait(gpu.hold(values))
            assert gpu.waits == number
        gpu.hold(values).where(gpu.hold(values) > 1, 0.0).topk(2)
        assert gpu.waits == len(waiting)


def test_the_forward_pass_waits_for_the_gpu_once():
    """For the matcher's costs; the backward pass never."""
    model, _ = small_brother(MAIN, SMALLER)
    with fake_cuda() as gpu:
        gpu.move(model)
        model.train().prepare_training()
        gpu.waits = 0
        losses = model(records())
        assert gpu.waits == 1
        sum(losses.values()).backward()
        assert gpu.waits == 1


def test_the_image_tower_runs_in_channels_last_layout():
    model, _ = small_brother(MAIN, SMALLER)
    images = torch.rand(2, 3, 64, 96)
    with fake_cuda() as gpu:
        gpu.move(model)
        features = model.backbone(gpu.hold(images))
        assert features["res3"].is_contiguous(memory_format=torch.channels_last)
        assert model.backbone.memory_format == torch.channels_last


RESULTS = ("semantic", "panoptic", "instance")


@pytest.mark.parametrize(
    ("results", "image_embedding"),
    [(RESULTS, "shared"), (RESULTS[:1], "shared"), (RESULTS[:1], "clip_preprocess")],
)
def test_inference_is_that_of_the_cpu(results, image_embedding):
    model, cfg = small_brother(MAIN, {**SMALLER, "MODEL.ITA.IMAGE_EMBEDDING": image_embedding})
    model.eval()
    enabled = {name: name in results for name in RESULTS}
    options = replace(inference_options(cfg), scores=True, **enabled)
    images = [{"image": record["image"], "height": 90, "width": 80} for record in records()]
    expected = segment(copy.deepcopy(model), options, images)
    with fake_cuda() as gpu:
        gpu.move(model)
        outputs = segment(model, options, images)
    for output, reference in zip(outputs, expected, strict=True):
        assert output.keys() == reference.keys()
        assert_same(output["dominant_classes"], reference["dominant_classes"])
        if "semantic" in results:
            assert_same(output["sem_seg"], reference["sem_seg"])
            assert_same_labels(output, reference)
        if "panoptic" in results:
            assert_same(output["panoptic_seg"][0], reference["panoptic_seg"][0])
            segments = output["panoptic_seg"][1], reference["panoptic_seg"][1]
            for info, same in zip(*segments, strict=True):
                assert info == {**same, "score": pytest.approx(same["score"])}
        if "instance" in results:
            for name, field in output["instances"].get_fields().items():
                true_field = reference["instances"].get(name)
                if name == "pred_boxes":
                    field, true_field = field.tensor, true_field.tensor
                assert_same(field, true_field)


def segment(model, options, images):
    vocabulary = model.make_vocabulary(TEST, TextEncoder(model.backbone))
    return Segmenter(model, vocabulary, options)(images)


def assert_same(tensor, reference):
    assert tensor.device.type == "cuda"
    torch.testing.assert_close(values_of(tensor), reference)


def assert_same_labels(output, reference):
    """Equal, except where two classes have the same score but for rounding."""
    assert output["label_map"].device.type == "cuda"
    first, second = reference["sem_seg"].topk(2, dim=0).values
    clear = first - second > 1e-5 * first
    assert clear.float().mean() > 0.99
    assert torch.equal(values_of(output["label_map"])[clear], reference["label_map"][clear])


@pytest.mark.parametrize("name", ["pixel_std", "decoder.level_embed.weight"])
def test_a_tensor_left_on_the_cpu_is_found(name):
    model, _ = small_brother(MAIN, SMALLER)
    with fake_cuda() as gpu:
        part, _, attribute = name.rpartition(".")
        owner = model.get_submodule(part)
        left_behind = getattr(owner, attribute)
        gpu.move(model)
        setattr(owner, attribute, left_behind)
        with pytest.raises(FakeTensorDeviceMismatchError, match="found at least two devices"):
            model.train()(records())
