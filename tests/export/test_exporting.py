"""``ita export`` as people run it: labels of PyTorch, in a process without PyTorch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import ita
from ita.cli import main
from ita.errors import UserError
from ita.export.exporting import text_inputs
from tests.export.scenes import CLASS_LISTS, SIZES, scene

WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = None  # an import of it fails
sys.argv[0] = "ita.runtime"
runpy.run_module("ita.runtime", run_name="__main__")
"""
VOCABULARY = "red circle, crimson disc; grass; water"


@pytest.fixture(scope="module")
def toy():
    return ita.load(precision="float32", device="cpu")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    for library in ("onnx", "onnxscript", "onnxruntime", "tokenizers"):
        pytest.importorskip(library)
    folder = tmp_path_factory.mktemp("export") / "toy"
    assert main(["export", "--output", str(folder), "--classes", VOCABULARY]) == 0
    return folder


@pytest.fixture(scope="module")
def runtime(exported):
    from ita.runtime import load_onnx

    return load_onnx(exported, threads=1)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", CLASS_LISTS)
def test_labels_are_those_of_pytorch(toy, runtime, size, count):
    image, classes = scene(*size), CLASS_LISTS[count]
    expected, result = toy.segment(image, classes), runtime.segment(image, classes)
    assert result.names == expected.names
    assert result.label_map.shape == expected.label_map.shape
    assert result.label_map.dtype == expected.label_map.dtype
    assert (result.label_map == expected.label_map).mean() >= 0.999


@pytest.mark.slow
@pytest.mark.skipif("ITA_SAMPLES" not in os.environ, reason="ITA_SAMPLES is not set")
def test_labels_of_photographs(toy, runtime):
    photographs = sorted(Path(os.environ["ITA_SAMPLES"]).glob("ADEChallengeData2016/**/*.jpg"))
    assert photographs
    for path in photographs:
        for classes in CLASS_LISTS.values():
            expected, result = toy.segment(path, classes), runtime.segment(path, classes)
            assert (result.label_map == expected.label_map).mean() >= 0.999


@pytest.mark.slow
def test_a_process_without_pytorch(toy, exported, tmp_path):
    Image.fromarray(scene(96, 120)).save(tmp_path / "scene.png")
    for classes in ([], ["--classes", "blue star; lawn"]):
        command = [sys.executable, "-c", WITHOUT_TORCH, exported, tmp_path / "scene.png", *classes]
        done = subprocess.run(
            [*command, "--output", tmp_path / "labels.png"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        labels = np.asarray(Image.open(tmp_path / "labels.png"))
        texts = (classes[1] if classes else VOCABULARY).split(";")
        expected = toy.segment(tmp_path / "scene.png", texts).label_map
        assert (labels == expected).mean() >= 0.999


@pytest.mark.slow
def test_images_of_a_batch_with_padding(toy, exported):
    """The graph alone, as another program uses it."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    arrays = dict(np.load(exported / "vocabulary.npz"))
    arrays.pop("class_list")
    images = np.full((3, 3, 64, 96), 77, np.uint8)
    images[0, :, :50, :80] = scene(50, 80).transpose(2, 0, 1)
    images[1:] = scene(64, 96).transpose(2, 0, 1)
    sizes = np.array([[50, 80], [64, 96], [64, 96]])
    masks, scores = session.run(None, {"image": images, "size": sizes, **arrays})
    assert masks.shape[0] == 3
    assert masks.shape[2:] == (16, 24)
    assert scores.shape == (*masks.shape[:2], 4)
    np.testing.assert_allclose(np.exp(scores).sum(axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(masks[1], masks[2], atol=1e-3)
    images[0, :, 50:] = images[0, :, :, 80:] = 200  # what the padding contains has no effect
    again, _ = session.run(None, {"image": images, "size": sizes, **arrays})
    np.testing.assert_allclose(masks[0], again[0], atol=1e-3)


@pytest.mark.slow
def test_a_vocabulary_of_another_model_is_refused(exported, tmp_path):
    from ita.runtime import load_onnx

    for path in exported.iterdir():
        (tmp_path / path.name).symlink_to(path)
    arrays = dict(np.load(exported / "vocabulary.npz"))
    (tmp_path / "vocabulary.npz").unlink()
    np.savez(tmp_path / "vocabulary.npz", **arrays | {"text": arrays["text"][:, :7]})
    with pytest.raises(UserError, match="is of another model"):
        load_onnx(tmp_path)


@pytest.mark.slow
def test_without_a_text_tower(exported, tmp_path):
    """What the docs say may be deleted."""
    from ita.runtime import load_onnx

    for name in ("model.onnx", "model.json", "vocabulary.npz"):
        (tmp_path / name).symlink_to(exported / name)
    model = load_onnx(tmp_path)
    assert model.segment(scene(40, 50)).names == ("red circle", "grass", "water")
    with pytest.raises(UserError, match="without its text tower"):
        model.segment(scene(40, 50), ["cat"])


@pytest.mark.slow
@pytest.mark.parametrize("image_embedding", ["shared", "places"])
def test_a_program_of_pytorch(image_embedding, tmp_path):
    pytest.importorskip("tokenizers")
    model, config = ita.files.PACKAGE / "toy" / "model", tmp_path / "config.yaml"
    keys = {"MODEL": {"ITA": {"IMAGE_EMBEDDING": image_embedding}}}
    config.write_text(yaml.dump({"_BASE_": str(model / "config.yaml"), **keys}))
    weights = str(model / "model.safetensors")
    words = ["--format", "torch", "--config-file", str(config), "--weights", weights]
    assert main(["export", "--output", str(tmp_path / "out"), *words]) == 0
    toy = ita.load(config, weights, precision="float32", device="cpu")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "model.json",
        "model.pt2",
        "text.pt2",
        "tokenizer.json",
    ]
    program = torch.export.load(tmp_path / "out" / "model.pt2").module(check_guards=False)
    for classes in CLASS_LISTS.values():
        segmenter = toy.segmenter(classes)
        image = torch.from_numpy(scene(64, 96)).permute(2, 0, 1)
        with torch.no_grad():
            inputs = text_inputs(segmenter.vocabulary)
            masks, scores = program(image=image[None], size=torch.tensor([[64, 96]]), **inputs)
            images = toy.model.encode_images([{"image": image}])
            decoded = toy.model.decode(images, segmenter.vocabulary)
            expected = toy.model.classify(images, decoded, segmenter.vocabulary, toy.options)
        torch.testing.assert_close(masks, decoded.predictions[-1].mask_logits, atol=2e-3, rtol=1e-3)
        assert (scores.argmax(-1) == expected.argmax(-1)).float().mean() > 0.95


def test_an_existing_folder_is_kept(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["export", "--output", str(tmp_path)]) == 1
    assert "exists" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_missing_library_names_the_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    pytest.importorskip("onnx")
    assert main(["export", "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "onnxscript" in error
    assert "[onnx]" in error
    assert list(tmp_path.iterdir()) == []


def test_weights_need_their_config(tmp_path, capsys):
    assert main(["export", "--output", str(tmp_path / "out"), "--weights", "model.pth"]) == 1
    assert "--config-file" in capsys.readouterr().err


def test_what_cannot_be_exported_is_refused(toy, tmp_path, monkeypatch):
    from ita.export.exporting import export_model

    monkeypatch.setattr(toy.model, "image_embedding", "clip_preprocess")
    with pytest.raises(UserError, match="IMAGE_EMBEDDING clip_preprocess cannot be exported"):
        export_model(toy, tmp_path / "out", ".pt2")
    assert list(tmp_path.iterdir()) == []
