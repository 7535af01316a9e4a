"""A model as a folder: ``model.save`` and ``ita.load`` of what it wrote."""

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import ita
from ita.classes import read_class_list
from ita.cli import main
from ita.config import load_config
from ita.engine.checkpointer import Checkpointer
from ita.errors import UserError
from ita.files import PACKAGE
from ita.meta_arch import build_model
from ita.modeling.storage import write_tensors
from tests.engine.tiny import CONFIG, overrides

CLASSES = ["red circle, crimson disc", "blue star", "grass, lawn", "water"]
FILES = {"config.yaml", "model.safetensors", "classes.txt", "README.md"}


@pytest.fixture(scope="module")
def saved(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "new" / "model"
    toy.save(folder)
    return folder


@pytest.fixture
def make_model(tmp_path):
    """Makes an untrained model whose class list is named by a path."""

    def make(**more):
        cfg = load_config(CONFIG, overrides(**more))
        classes = ita.ClassList.from_strings("/home/me/list.txt", ["red circle", "sky, air"], (0,))
        torch.manual_seed(1)
        Checkpointer(build_model(cfg, classes), str(tmp_path)).save("made")
        return ita.load(CONFIG, tmp_path / "made.pth", overrides=overrides(**more))

    return make


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_same_model(one, other, image):
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert one.options == other.options
    assert one.mapper.min_size == other.mapper.min_size
    first, second = (m.segment(image, CLASSES, panoptic=True) for m in (one, other))
    assert (first.label_map == second.label_map).all()
    assert first.to_coco() == second.to_coco()
    assert first.dominant == second.dominant


def test_a_saved_model_is_the_same_model(toy, saved, scene):
    assert {path.name for path in saved.iterdir()} == FILES
    again = ita.load(saved, precision="float32")
    assert again.model.train_class_list == toy.model.train_class_list
    assert_same_model(toy, again, scene[0])


def test_a_saved_model_can_be_moved_and_saved_again(saved, scene, tmp_path):
    ita.load(saved).save(tmp_path / "second")
    assert content_of(tmp_path / "second") == content_of(saved)


def test_a_low_precision_saves_the_same_weights(saved, tmp_path):
    ita.load(saved, precision="bfloat16").save(tmp_path / "low")
    assert content_of(tmp_path / "low") == content_of(saved)


def test_every_setting_of_a_model_is_saved(make_model, scene, tmp_path):
    """Also of a model of FC-CLIP's kind, without dominant categories."""
    model = make_model(
        MODEL__ITA__NUM_DOMINANT=0,
        MODEL__ITA__SELF_ATTENTION=True,
        MODEL__FC_CLIP__GEOMETRIC_ENSEMBLE_BETA=0.25,
        MODEL__MASK_FORMER__TEST__OVERLAP_THRESHOLD=0.5,
        TEST__DETECTIONS_PER_IMAGE=7,
        INPUT__MAX_SIZE_TEST=99,
    )
    model.save(tmp_path / "model")
    again = ita.load(tmp_path / "model")
    assert again.options.beta == 0.25
    assert again.options.max_instances == 7
    assert again.mapper.max_size == 99
    assert again.model.dominant is None
    assert_same_model(model, again, scene[0])
    assert again.segment(scene[0], CLASSES).dominant == ()


def test_the_config_names_no_machine(make_model, tmp_path):
    """No device, no path of the user, no training data beyond the name of the set."""
    model = make_model(
        MODEL__FC_CLIP__CLIP_MODEL_NAME=PACKAGE / "toy" / "clip" / "open_clip_config.json",
        OUTPUT_DIR="/home/me/output",
        DATASETS__CUSTOM="('ita/toy/datasets.yaml',)",
    )
    model.save(tmp_path / "model")
    assert b"/home/me" not in b"".join(content_of(tmp_path / "model").values())
    config = yaml.safe_load((tmp_path / "model" / "config.yaml").read_text())
    assert config.keys() <= {"MODEL", "INPUT", "TEST", "DATASETS"}
    assert config["DATASETS"] == {"TRAIN": ["toy_train"]}
    assert not {"DEVICE", "WEIGHTS"} & config["MODEL"].keys()
    clip = config["MODEL"]["FC_CLIP"]
    assert clip["CLIP_MODEL_NAME"] == "ita/toy/clip/open_clip_config.json"
    assert clip["CLIP_PRETRAINED_WEIGHTS"] == "random"
    assert ita.load(tmp_path / "model").model.train_class_list.name == "list.txt"


def test_a_name_table_is_part_of_the_model(make_model, scene, tmp_path):
    width = make_model().model.backbone.embed_dim
    table = {"red circle": torch.randn(width), "grass": torch.randn(width)}
    write_tensors(tmp_path / "table.safetensors", table)
    model = make_model(MODEL__ITA__NAME_TABLE=tmp_path / "table.safetensors")
    model.save(tmp_path / "model")
    (tmp_path / "table.safetensors").unlink()
    again = ita.load(tmp_path / "model")
    assert again.model.name_table.keys() == table.keys()
    assert_same_model(model, again, scene[0])
    again.save(tmp_path / "second")
    assert content_of(tmp_path / "second") == content_of(tmp_path / "model")


def test_the_class_list_is_a_class_list_file(toy, saved):
    assert read_class_list(saved / "classes.txt").classes == toy.model.train_class_list.classes


def test_a_saved_model_runs_on_the_device_that_is_there(saved, caplog):
    assert ita.load(saved, device="cpu").model.device.type == "cpu"
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    if not torch.backends.mps.is_available():
        assert ita.load(saved).model.device.type == expected
    assert "no GPU" not in caplog.text


def test_another_checkpoint_with_the_config_of_a_folder(make_model, scene, tmp_path):
    model = make_model()
    model.save(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    again = ita.load(tmp_path / "model", tmp_path / "made.pth")
    assert_same_model(model, again, scene[0])


def test_an_earlier_model_is_replaced(toy, saved, make_model, tmp_path):
    make_model().save(tmp_path / "model")
    toy.save(tmp_path / "model")
    assert content_of(tmp_path / "model") == content_of(saved)
    assert {p.name for p in tmp_path.iterdir()} == {"model", "made.pth", "last_checkpoint"}


def test_an_empty_folder_is_used(toy, saved, tmp_path):
    toy.save(tmp_path)
    assert content_of(tmp_path) == content_of(saved)


@pytest.mark.parametrize("names", [["photo.jpg"], ["config.yaml"], [*FILES, "notes.txt"], ["a/b"]])
def test_other_folders_are_left_alone(toy, names, tmp_path):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=r"choose a folder for the model"):
        toy.save(tmp_path)
    assert all((tmp_path / name).read_text() == "mine" for name in names)


def test_a_file_is_left_alone(toy, tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        toy.save(tmp_path / "model")
    assert (tmp_path / "model").read_text() == "mine"


def test_a_failure_leaves_the_earlier_model(toy, saved, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    toy.save(folder)
    monkeypatch.setattr("ita.predictor.model_folder.export_weights", full_disk)
    with pytest.raises(UserError, match="No space left"):
        toy.save(folder)
    assert content_of(folder) == content_of(saved)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def full_disk(*_):
    raise OSError(28, "No space left on device")


def test_a_folder_that_is_no_model(saved, tmp_path):
    with pytest.raises(UserError, match=r"has no config\.yaml; a model folder"):
        ita.load(tmp_path)
    (tmp_path / "config.yaml").write_bytes((saved / "config.yaml").read_bytes())
    with pytest.raises(UserError, match=r"has no model\.safetensors; a model folder"):
        ita.load(tmp_path)


def test_commands_take_a_model_folder(saved, tmp_path):
    """As the config, with the weights that the folder has."""
    image = tmp_path / "image.png"
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(image)
    words = ["segment", str(image), "--output", str(tmp_path / "o"), "--classes", "grass; water"]
    assert main([*words, "--config-file", str(saved)]) == 0
    assert (tmp_path / "o" / "image_overlay.png").is_file()
