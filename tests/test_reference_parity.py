"""The model against true outputs and losses of the public implementations.

``ITA_REFERENCE_VECTORS`` names a folder of ``*.safetensors``: tiny models with random weights, as
the public code of FC-CLIP and of the first ITA release computes them on the CPU in float32.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from detectron2.structures import Instances
from safetensors import safe_open
from torch import Tensor

import ita.modeling.postprocess
from ita.build import inference_options, parts_from_config
from ita.classes import ClassList
from ita.cli import main
from ita.config import load_config
from ita.meta_arch import ITA
from ita.modeling.conversion import convert_state_dict
from ita.modeling.postprocess import InferenceOptions
from ita.modeling.query_masks import QueryMasks
from ita.modeling.storage import read_tensors, write_tensors
from ita.modeling.vocabulary import TextEncoder
from ita.segmenter import Segmenter
from tests.ancestors import write_configs

FOLDER = os.environ.get("ITA_REFERENCE_VECTORS", "")
FILES = sorted(Path(FOLDER).glob("*.safetensors")) if FOLDER else []
needs_files = pytest.mark.skipif(not FOLDER, reason="ITA_REFERENCE_VECTORS is not set")
RELATIVE_TOLERANCE = 1e-4
# Labels may differ where the best two candidates are this close.
MARGIN = 1e-5


class Difference(NamedTuple):
    """How far one reference tensor is from ours: the largest difference and what is allowed."""

    key: str
    maximum: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        return self.maximum <= self.tolerance


class Reference:
    """One file: tensors by name, metadata decoded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with safe_open(path, "pt") as file:
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        self.kind = metadata.pop("kind")
        self.metadata = {name: json.loads(value) for name, value in metadata.items()}

    def under(self, prefix: str) -> dict[str, Tensor]:
        return {n[len(prefix) :]: t for n, t in self.tensors.items() if n.startswith(prefix)}

    @property
    def num_images(self) -> int:
        return len(self.under("input."))


class Subject(NamedTuple):
    """The model that a file describes, with its weights under our names, and its options."""

    model: ITA
    options: InferenceOptions

    def segmenter(self, reference: Reference) -> Segmenter:
        """A segmenter of the file's test classes, with text encoded anew."""
        meta = reference.metadata
        classes = ClassList.from_strings("test", meta["test_classes"], meta["thing_ids"])
        text = TextEncoder(self.model.backbone)
        options = replace(self.options, scores=True)
        return Segmenter(self.model, self.model.make_vocabulary(classes, text), options)


def build_subject(reference: Reference, folder: Path) -> Subject:
    config_file = folder / "config.yaml"
    config_file.write_text("DATASETS:\n  TRAIN: ('unused',)\n")
    is_ita = reference.kind.startswith("ita")
    values = {
        "MODEL.ITA.NUM_DOMINANT": 20 if is_ita else 0,
        "MODEL.ITA.SELF_ATTENTION": not is_ita,
        "MODEL.ITA.IMAGE_EMBEDDING": "clip_preprocess",
        "MODEL.ITA.CANDIDATE_TEXT": "bare",
    }
    return subject_of_config(reference, folder, config_file, values)


def subject_of_config(
    reference: Reference, folder: Path, config_file: Path, more: dict[str, Any]
) -> Subject:
    """The model of a config with the sizes that the file's options state."""
    meta = reference.metadata
    clip_config = folder / "clip.json"
    clip_config.write_text(json.dumps(open_clip_config(reference)))
    values = {
        **dict(zip(meta["options"][::2], meta["options"][1::2], strict=True)),
        "MODEL.FC_CLIP.CLIP_MODEL_NAME": str(clip_config),
        "MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS": "random",
        **more,
    }
    cfg = load_config(config_file, [str(x) for pair in values.items() for x in pair])
    parts = parts_from_config(cfg, ClassList.from_strings("training", meta["train_classes"]))
    parts["name_table"] = reference.under("table.")
    model = ITA(**parts)
    model.load_state_dict(convert_state_dict(reference.under("weight.")))
    return Subject(model.eval(), inference_options(cfg))


def open_clip_config(reference: Reference) -> dict[str, Any]:
    """The file's CLIP config; timm before 0.6 gave the MLP head a bias that no option asked for."""
    config = reference.metadata["open_clip_config"]
    if "weight.backbone.clip_model.visual.head.mlp.fc2.bias" in reference.tensors:
        config["vision_cfg"]["timm_proj_bias"] = True
    return config


def run_inference(
    subject: Subject, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """All outputs for the file's images, by the file's names."""
    seen, panoptic_inputs = capture(subject.model), []
    true_panoptic = ita.modeling.postprocess.panoptic_segments

    def panoptic(scores: Tensor, masks: QueryMasks, *args: Any, **kwargs: Any) -> Any:
        panoptic_inputs.append((scores, masks))
        return true_panoptic(scores, masks, *args, **kwargs)

    monkeypatch.setattr(ita.modeling.postprocess, "panoptic_segments", panoptic)
    results = subject.segmenter(reference)(inputs(reference))
    # Inference needs the last prediction only; the file has all.
    arguments, _ = seen["decoder"]
    seen["decoder"] = arguments, subject.model.decoder(*arguments)
    output = named_tensors(seen)
    for i, result in enumerate(results):
        output[f"{i}.sem_seg"] = result["sem_seg"]
        output[f"{i}.label_map"] = result["label_map"]
        if "panoptic_seg" in result:
            output[f"{i}.panoptic_seg"], output[f"{i}.segments"] = result["panoptic_seg"]
            output[f"{i}.margin"] = panoptic_margin(*panoptic_inputs[i])
        if "instances" in result:
            output[f"{i}.instances"] = result["instances"]
    return output


def capture(model: ITA) -> dict[str, Any]:
    """Inputs and outputs of the model's parts, filled by the next forward pass."""
    seen: dict[str, Any] = {}

    def keep(name: str) -> Any:
        return lambda _, args, output: seen.__setitem__(name, (args, output))

    for name in ("backbone", "pixel_decoder", "dominant", "decoder", "criterion"):
        part = getattr(model, name)
        if part is not None:
            part.register_forward_hook(keep(name))
    # The first pass counts: the image embedding may come from a second one.
    visual = model.backbone.clip.visual
    if hasattr(visual, "trunk"):
        visual.trunk.stem.register_forward_hook(
            lambda _, args, output: seen.setdefault("stem", (args, output)) and None
        )
    else:  # a ResNet's stem ends where the pooling after it begins
        visual.avgpool.register_forward_pre_hook(
            lambda _, args: seen.setdefault("stem", (None, args[0])) and None
        )
    return seen


def named_tensors(seen: dict[str, Any]) -> dict[str, Any]:
    _, features = seen["backbone"]
    pixel, predictions = seen["pixel_decoder"][1], seen["decoder"][1]
    classifier = seen["decoder"][0][2].weight.detach()
    output = {f"feature.{name}": features[name] for name in ("res2", "res3", "res4", "res5")}
    output |= {"feature.clip_vis_dense": features["dense"], "mask_features": pixel.mask_features}
    output |= {"feature.stem": seen["stem"][1]}
    output |= {"feature.text_classifier": classifier, "text_classifier": classifier[:-1]}
    output |= {f"multi_scale.{i}": level for i, level in enumerate(pixel.levels)}
    if "dominant" in seen:
        output["dominant_queries"] = seen["dominant"][1]
    for i, prediction in enumerate(predictions):
        prefix = "" if i == len(predictions) - 1 else f"aux.{i}."
        output[f"{prefix}pred_logits"] = prediction.class_logits
        output[f"{prefix}pred_masks"] = prediction.mask_logits
    return output


def run_losses(model: ITA, reference: Reference) -> dict[str, Tensor]:
    """Losses before weights, on the file's points, over the training vocabulary."""

    def always(points: Tensor) -> Any:
        return lambda sets, count, device: points.expand(sets, count, 2)

    criterion = model.criterion
    criterion.matcher.point_source = always(reference.tensors["points.match"])
    criterion.matcher.num_points = len(reference.tensors["points.match"])
    criterion.point_source = always(reference.tensors["points.loss"])
    criterion.num_points = len(reference.tensors["points.loss"])
    criterion.importance_ratio = 0.0
    seen = capture(model)
    model.train()
    with torch.no_grad():
        model(inputs(reference))
    return criterion.unweighted(*seen["criterion"][0])


def inputs(reference: Reference) -> list[dict[str, Any]]:
    records = []
    for i, (height, width) in enumerate(reference.metadata["output_sizes"]):
        image = reference.tensors[f"input.{i}.image"]
        record = {"image": image, "height": height, "width": width}
        target = reference.under(f"target.{i}.")
        if target:
            instances = Instances(tuple(image.shape[-2:]))
            instances.gt_classes, instances.gt_masks = target["labels"], target["masks"].bool()
            record["instances"] = instances
        records.append(record)
    return records


def panoptic_margin(scores: Tensor, masks: QueryMasks) -> Tensor:
    """How clearly each pixel belongs to a query: the margin of the best two, and of 1/2."""
    score, label = scores.softmax(dim=-1).max(dim=-1)
    kept = label != scores.shape[-1] - 1
    probabilities = masks.select(kept).probabilities()
    owned = (score[kept, None, None] * probabilities).sort(dim=0, descending=True).values
    if not len(probabilities):
        return torch.zeros(masks.output_size)
    margin = (probabilities - 0.5).abs().amin(dim=0)
    return torch.minimum(margin, owned[0] - owned[1]) if len(owned) > 1 else margin


def compare(reference: Reference, output: dict[str, Any]) -> list[Difference]:
    """Every ``out.*`` tensor of a file against ours."""
    differences = []
    for key, expected in reference.under("out.").items():
        if ".instances." in key:
            continue
        if key.endswith("panoptic_seg"):
            clear = output[key.replace("panoptic_seg", "margin")] > MARGIN
            wrong = ((output[key] != expected) & clear).sum().item()
            differences.append(Difference(key, wrong, 0))
        else:
            if key not in output or output[key].numel() != expected.numel():
                differences.append(Difference(f"{key} is not compared", 1, 0))
                continue
            ours = output[key].detach()
            tolerance = RELATIVE_TOLERANCE * (1 + expected.abs().max().item())
            maximum = (ours.reshape(expected.shape) - expected).abs().max().item()
            differences.append(Difference(key, maximum, tolerance))
        if key.endswith("sem_seg"):
            labels = output[key.replace("sem_seg", "label_map")]
            differences.append(compare_labels(key, output[key].argmax(dim=0), expected))
            differences.append(compare_labels(f"{key} without scores", labels, expected))
    for i in range(reference.num_images):
        instances = reference.under(f"out.{i}.instances.")
        if instances:
            differences += compare_instances(f"{i}.instances", output[f"{i}.instances"], instances)
    return differences


def compare_labels(key: str, labels: Tensor, expected: Tensor) -> Difference:
    best = expected.topk(2, dim=0).values
    clear = best[0] - best[1] > MARGIN
    wrong = ((labels != expected.argmax(dim=0)) & clear).sum().item()
    return Difference(f"{key} labels", wrong, 0)


def compare_instances(key: str, ours: Instances, expected: dict[str, Tensor]) -> list[Difference]:
    """Pair instances by class and mask; compare their number, then their scores."""
    scores = expected["scores"]
    differences = [Difference(f"{key} number", abs(len(ours) - len(scores)), 0)]
    for name in expected.keys() - {"scores", "pred_classes", "pred_masks"}:
        differences.append(Difference(f"{key}.{name} is not compared", 1, 0))
    free = list(range(len(ours)))
    for label, mask, score in zip(
        expected["pred_classes"], expected["pred_masks"], scores, strict=True
    ):
        same = [
            j
            for j in free
            if ours.pred_classes[j] == label
            and (ours.pred_masks[j] != mask.bool()).float().mean() < 1e-3
        ]
        nearest = min(same, key=lambda j: abs(ours.scores[j] - score), default=None)
        if nearest is None:
            differences.append(Difference(f"{key} has no {label.item()} of {score:.4f}", 1, 0))
            continue
        free.remove(nearest)
        difference = abs(ours.scores[nearest] - score).item()
        differences.append(
            Difference(f"{key}.scores", difference, RELATIVE_TOLERANCE * (1 + scores.max().item()))
        )
    return differences


def report(differences: list[Difference]) -> str:
    return "\n".join(
        f"{'ok  ' if d.agrees else 'FAIL'} {d.key:28} max {d.maximum:.1e} allowed {d.tolerance:.1e}"
        for d in differences
    )


@needs_files
def test_the_folder_has_files() -> None:
    assert FILES, f"no *.safetensors in {FOLDER}"


@needs_files
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_reference(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reference = Reference(path)
    check_agreement(reference, build_subject(reference, tmp_path), monkeypatch, capsys)


@needs_files
def test_reference_with_fcclips_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """FC-CLIP's own YAML file as the config, with none of this model's keys."""
    reference = Reference(next(path for path in FILES if path.stem.startswith("fcclip")))
    assert reference.under("out.loss.")
    _, config_file = write_configs(tmp_path / "configs")
    subject = subject_of_config(reference, tmp_path, config_file, {})
    check_agreement(reference, subject, monkeypatch, capsys)


def check_agreement(
    reference: Reference,
    subject: Subject,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Compare all outputs and losses of a file with ours, and print them."""
    output = run_inference(subject, reference, monkeypatch)
    if reference.under("out.loss."):
        losses = run_losses(subject.model, reference)
        output |= {f"loss.{name}": loss for name, loss in losses.items()}
    differences = compare(reference, output)
    with capsys.disabled():
        print(f"\n{reference.path.name}\n{report(differences)}")
    assert all(d.agrees for d in differences), report([d for d in differences if not d.agrees])
    for i, expected in enumerate(reference.metadata["panoptic_segments"]):
        segments = output.get(f"{i}.segments", [])
        # The reference does not tell which query a segment comes from, and its score.
        told = [{k: v for k, v in s.items() if k not in ("query", "score")} for s in segments]
        assert told == expected


@needs_files
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_their_weights_come_back_bit_by_bit(path: Path, tmp_path: Path) -> None:
    """``ita convert`` to this model's names and back."""
    reference = Reference(path)
    theirs, ours, again = (tmp_path / f"{name}.safetensors" for name in ("theirs", "ours", "again"))
    expected = reference.under("weight.")
    write_tensors(theirs, expected)
    target = "fcclip" if reference.kind.startswith("fcclip") else "ita-first-release"
    assert main(["convert", str(theirs), str(ours)]) == 0
    assert main(["convert", str(ours), str(again), "--to", target]) == 0
    found = read_tensors(again, "checkpoint")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Reference, Subject]:
    """An ITA file with its model; tests that change the model put it back."""
    path = next(path for path in FILES if path.stem.startswith("ita"))
    reference = Reference(path)
    return reference, build_subject(reference, tmp_path_factory.mktemp("reference"))


@needs_files
@pytest.mark.parametrize(
    "name",
    [
        "backbone.clip.visual.trunk.stem.0.weight",
        "backbone.clip.text_projection",
        "dominant.projection.weight",
        "void_embedding.weight",
        "pixel_decoder.layers.0.attention.value.weight",
        "pixel_decoder.fusion.0.weight",
        "decoder.query_feature.weight",
        "decoder.layers.1.cross_attention.in_proj.weight",
        "decoder.head.class_embed.layers.2.weight",
    ],
)
def test_a_changed_weight_disagrees(
    first: tuple[Reference, Subject], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, subject = first
    model = subject.model
    before = model.get_parameter(name).detach().clone()
    noise = torch.randn(before.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.get_parameter(name).copy_(before * (1 + 0.01 * noise))
    try:
        differences = compare(reference, run_inference(subject, reference, monkeypatch))
    finally:
        with torch.no_grad():
            model.get_parameter(name).copy_(before)
    assert not all(d.agrees for d in differences)


@needs_files
@pytest.mark.parametrize("name", ["unheard_of", "0.instances.unheard_of"])
def test_a_tensor_that_is_not_compared_disagrees(
    first: tuple[Reference, Subject], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, subject = first
    output = run_inference(subject, reference, monkeypatch)
    monkeypatch.setitem(reference.tensors, f"out.{name}", torch.zeros(1))
    assert [d.key for d in compare(reference, output) if not d.agrees] == [
        f"{name} is not compared"
    ]
