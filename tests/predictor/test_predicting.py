"""``ita.load`` and ``segment``: the public interface, on the toy model and a checkpoint."""

import copy
import subprocess
import sys

import cloudpickle
import numpy as np
import pytest
import torch
from PIL import Image

import ita
from ita.config import load_config
from ita.engine.checkpoint import export_weights, read_checkpoint
from ita.engine.checkpointer import Checkpointer
from ita.engine.setup import best_device
from ita.errors import UserError
from ita.meta_arch import build_model
from ita.toy.names import SEEN_THINGS, STUFF
from tests.engine.tiny import CONFIG, overrides

CLASSES = ["red circle, crimson disc", "blue star", "grass, lawn", "water"]


def test_the_toy_model_knows_its_shapes(toy, scene):
    image, labels, names = scene
    distractors = ["yellow ring", "gravel", "white moon"]
    result = toy.segment(image, [*names, *distractors])
    assert result.names == (*names, *distractors)
    assert result.label_map.shape == labels.shape
    assert np.issubdtype(result.label_map.dtype, np.integer)
    known = labels >= 0
    assert (result.label_map == labels)[known].mean() > 0.8


def test_names_are_first_synonyms(toy, scene):
    assert toy.segment(scene[0], CLASSES).names == ("red circle", "blue star", "grass", "water")


def test_every_kind_of_image(toy, scene, tmp_path):
    """Path, text of a path, PIL image and array are the same image."""
    image = scene[0]
    path = tmp_path / "scene.png"
    Image.fromarray(image).save(path)
    expected = toy.segment(image, CLASSES).label_map
    for same in (path, str(path), Image.fromarray(image), Image.fromarray(image).convert("RGBA")):
        assert (toy.segment(same, CLASSES).label_map == expected).all()


def test_a_list_is_a_batch_in_its_order(toy, scene):
    image = scene[0]
    images = [image[:100], image, image[:100, ::-1], image[:, :60]]
    together = toy.segment(images, CLASSES)
    assert [r.label_map.shape for r in together] == [i.shape[:2] for i in images]
    for one, result in zip(images, together, strict=True):
        agree = toy.segment(one, CLASSES).label_map == result.label_map
        assert agree.mean() > 0.999
    assert toy.segment([], CLASSES) == []


def test_a_class_list_may_be_given(toy, scene):
    class_list = ita.ClassList.from_strings("mine", CLASSES)
    result = toy.segment(scene[0], class_list)
    assert result.class_list is class_list


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8), np.uint8), r"uint8 \[height, width, 3\], not uint8 \[8, 8\]"),
        (np.zeros((8, 8, 4), np.uint8), r"not uint8 \[8, 8, 4\]"),
        (np.zeros((8, 8, 3), np.float32), "not float32"),
        (np.zeros((0, 8, 3), np.uint8), r"\[0, 8, 3\]"),
        ("no/such/file.jpg", "no/such/file.jpg"),
    ],
)
def test_unusable_images(toy, image, message):
    with pytest.raises(UserError, match=message):
        toy.segment(image, CLASSES)


@pytest.mark.parametrize("images", [None, 3, b"bytes", {"a": 1}])
def test_things_that_are_no_images(toy, images):
    with pytest.raises(UserError, match="images are a path"):
        toy.segment(images, CLASSES)


@pytest.mark.parametrize("classes", [[], ["cat", ""], "cat", [("cat", "kitten")], [3], None])
def test_unusable_classes(toy, scene, classes):
    with pytest.raises(UserError):
        toy.segment(scene[0], classes)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny model's checkpoint, trained on a class list that no data set has."""
    folder = tmp_path_factory.mktemp("checkpoint")
    cfg = load_config(CONFIG, overrides())
    classes = ita.ClassList.from_strings("its own", ["red circle", "sky"], (0,))
    torch.manual_seed(1)
    Checkpointer(build_model(cfg, classes), str(folder)).save("model")
    return folder / "model.pth"


def test_a_checkpoint_carries_its_training_classes(checkpoint, scene):
    model = ita.load(CONFIG, checkpoint, overrides=overrides())
    assert model.model.train_class_list == ita.ClassList.from_strings(
        "its own", ["red circle", "sky"], (0,)
    )
    segmenter = model.segmenter(["crimson disc, red circle", "ocean", "sky"])
    assert segmenter.vocabulary.seen.tolist() == [True, False, True]
    assert model.segment(scene[0], CLASSES).label_map.shape == scene[0].shape[:2]


def test_exported_weights_are_the_same_model(checkpoint, scene, tmp_path):
    export_weights(read_checkpoint(checkpoint), tmp_path / "model.safetensors")
    one, other = (
        ita.load(CONFIG, path, overrides=overrides())
        for path in (checkpoint, tmp_path / "model.safetensors")
    )
    assert one.model.train_class_list == other.model.train_class_list
    pairs = zip(one.model.state_dict().items(), other.model.state_dict().items(), strict=True)
    for (name, tensor), (other_name, same) in pairs:
        assert name == other_name
        assert torch.equal(tensor, same), name


def test_a_checkpoint_without_classes_takes_those_of_the_config(checkpoint, tmp_path):
    content = read_checkpoint(checkpoint)
    torch.save({"model": content["model"]}, tmp_path / "old.pth")
    model = ita.load(CONFIG, tmp_path / "old.pth", overrides=overrides())
    assert len(model.model.train_class_list) == len(SEEN_THINGS) + len(STUFF)


def test_a_training_list_of_the_config_overrides_the_checkpoints(checkpoint, tmp_path, caplog):
    names = [f"{i}: other {i}" for i in range(len(SEEN_THINGS) + len(STUFF))]
    (tmp_path / "list.txt").write_text("\n".join(names))
    replaced = ["DATASETS.TRAIN_VOCABULARY", str(tmp_path / "list.txt")]
    model = ita.load(CONFIG, checkpoint, overrides=[*overrides(), *replaced])
    assert model.model.train_class_list.names[0] == "other 0"
    assert "its own" in caplog.text


def test_a_config_without_weights():
    with pytest.raises(UserError, match="pass a checkpoint"):
        ita.load(CONFIG, overrides=overrides())


def test_weights_without_their_config(checkpoint):
    with pytest.raises(UserError, match="need the config"):
        ita.load(weights=checkpoint)


def test_a_missing_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="device cuda cannot be used"):
        ita.load(device="cuda")


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_best_device_there_is(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert best_device() == expected


def test_auto_chooses_the_best_device():
    assert ita.load(device="auto").model.device.type == best_device()


@pytest.mark.parametrize("device", ["gpu", "cuda:99", ""])
def test_devices_that_do_not_exist(device):
    with pytest.raises(UserError, match="cannot be used"):
        ita.load(device=device)


@pytest.mark.filterwarnings("ignore:for .*meta parameter")
def test_the_device_of_the_config_and_of_torch(checkpoint):
    on_meta = [*overrides(), "MODEL.DEVICE", "meta"]
    assert ita.load(CONFIG, checkpoint, overrides=on_meta).model.device.type == "meta"
    on_cpu = ita.load(CONFIG, checkpoint, torch.device("cpu"), overrides=on_meta)
    assert on_cpu.model.device.type == "cpu"


def test_the_same_classes_are_encoded_once(toy, scene, monkeypatch):
    made, make = [], toy.model.make_vocabulary
    monkeypatch.setattr(toy.model, "make_vocabulary", lambda *a: made.append(a) or make(*a))
    for classes in (["red ring"], ["red ring"], ["red bar"], ["red bar"]):
        toy.segment(scene[0], classes)
    assert len(made) == 2


def test_an_image_is_encoded_once_for_many_class_lists(toy, scene, monkeypatch):
    image = scene[0]
    lists = ["red circle", "grass"], ["water", "blue star", "sand"]
    expected = [toy.segment(image, classes) for classes in lists]
    encoded = toy.encode(image)
    monkeypatch.setattr(toy.model, "encode_images", None)
    for classes, result in zip(lists, expected, strict=True):
        ours = encoded.segment(classes)
        assert (ours.label_map == result.label_map).all()
        assert ours.names == result.names


def test_low_precision_gives_the_same_labels(toy, scene):
    """Where the classes are those of the scene; among classes that are not, scores are close."""
    image, _, names = scene
    low = ita.load(precision="bfloat16")
    assert low.dtype == low.model.backbone.tower.dtype == torch.bfloat16
    expected, encoded = toy.segment(image, names).label_map, low.encode(image)
    for ours in (encoded.segment(names), low.segment([image], names)[0]):
        assert (ours.label_map == expected).mean() > 0.999
    # Features of the image encoder itself were rounded.
    exact = toy.encode(image).features.dense
    assert 0 < (encoded.features.dense - exact).abs().max() < 0.1 * exact.abs().max()


def test_precisions_by_name():
    assert ita.load(precision="float32").dtype == torch.float32
    assert ita.load().dtype in (torch.float32, torch.bfloat16)
    with pytest.raises(UserError, match="'half'; it must be auto, float32, bfloat16, float16"):
        ita.load(precision="half")


def test_a_predictor_can_be_copied_and_sent_to_a_process(toy, scene):
    expected = toy.segment(scene[0], CLASSES).label_map
    for other in (copy.deepcopy(toy), cloudpickle.loads(cloudpickle.dumps(toy))):
        assert (other.segment(scene[0], CLASSES).label_map == expected).all()


def test_long_and_thin_images(toy):
    """Whose short side would be resized to nothing."""
    for shape in ((1, 1), (1, 3000), (3000, 1)):
        image = np.zeros((*shape, 3), np.uint8)
        assert toy.segment(image, CLASSES).label_map.shape == shape


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, ita; ita.ClassList; print({'torch', 'numpy', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_no_catalog_entry_is_needed(tmp_path):
    """Neither of a data set nor of the model."""
    code = (
        "import ita; from detectron2.data import DatasetCatalog; "
        "import numpy as np; model = ita.load(); "
        "model.segment(np.zeros((20, 30, 3), np.uint8), ['red circle', 'grass']); "
        "print([n for n in DatasetCatalog.list() if 'openvocab' in n or 'toy' in n])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"


def test_without_detectron2_one_line_says_what_installs_it():
    code = (
        "import sys; sys.modules['detectron2'] = None\n"
        "import ita\n"
        "try:\n    ita.load\nexcept ImportError as error:\n    print(error)\n"
        "from ita.cli import main\n"
        "sys.exit(main(['train', '--config-file', 'x.yaml']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        done.stdout.strip()
        == "detectron2 is not installed; install it with: ita install-detectron2"
    )
    assert done.stderr.strip() == f"error: {done.stdout.strip()}"
