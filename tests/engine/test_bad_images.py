"""Bad images and labels in training: it stops with its work saved, or goes on without them."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ita.errors import UserError
from tests.engine.test_exact_resume import WITHOUT_TEST, assert_same_weights, run, weights

# Two epochs of three iterations.
KEYS = {**WITHOUT_TEST, "SOLVER__MAX_ITER": 6, "SOLVER__CHECKPOINT_PERIOD": 0}
SKIP = {**KEYS, "DATALOADER__ON_ERROR": "skip"}


@pytest.fixture
def data(tiny_config, toy_root, tmp_path, monkeypatch):
    """Training data that a test may damage."""
    root = tmp_path / "datasets"
    shutil.copytree(toy_root, root)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    return root / "toy"


def truncate(image, label):
    image.write_bytes(image.read_bytes()[:100])
    return f"cannot read image {image}: "


def remove(image, label):
    image.unlink()
    return f"cannot read image {image}: No such file or directory"


def enlarge(image, label):
    Image.new("RGB", (80, 64)).save(image)
    return f"{image} is (80, 64) (width, height), not (64, 64)"


def add_an_unknown_segment(image, label):
    pixels = np.array(Image.open(label))
    pixels[3, 3] = 250
    Image.fromarray(pixels).save(label)
    return f"{label}: segment id "


def files_of(data, image_id):
    """Image and panoptic PNG of a scene."""
    name = f"{image_id:06d}"
    return data / "toy_train" / f"{name}.jpg", data / "panoptic_train" / f"{name}.png"


def shown(recorder):
    return [image for images in recorder.images.values() for image in images]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", [truncate, add_an_unknown_segment])
def test_a_stopped_run_is_saved_and_goes_on_exactly(damage, workers, tiny_config, data, tmp_path):
    cfg = tiny_config(**KEYS, DATALOADER__NUM_WORKERS=workers)
    folder = tmp_path / "run"
    _, whole = run(cfg)
    expected = weights(folder)
    shutil.rmtree(folder)
    files = files_of(data, whole.images[2][1])
    kept = [file.read_bytes() for file in files]
    told = damage(*files)
    with pytest.raises(UserError) as error:
        run(cfg)
    assert str(error.value).startswith(told)
    assert str(error.value).endswith(
        "; saved after iteration 2 of 6: mend the data and continue with --resume"
    )
    assert (folder / "last_checkpoint").read_text() == "model_0000001.pth"
    assert len((folder / "metrics.json").read_text().splitlines()) >= 1
    for file, content in zip(files, kept, strict=True):
        file.write_bytes(content)
    _, resumed = run(cfg, resume=True)
    assert list(resumed.losses) == [2, 3, 4, 5]
    assert_same_weights(weights(folder), expected)


def test_nothing_is_saved_before_the_first_step(tiny_config, data, tmp_path):
    _, whole = run(tiny_config(**KEYS, OUTPUT_DIR=tmp_path / "whole"))
    told = remove(*files_of(data, whole.images[0][0]))
    with pytest.raises(UserError) as error:
        run(tiny_config(**KEYS))
    assert str(error.value) == told
    assert not list((tmp_path / "run").glob("*.pth"))


def test_the_images_of_no_step_are_not_read(tiny_config, data, tmp_path):
    _, whole = run(tiny_config(**KEYS, OUTPUT_DIR=tmp_path / "whole"))
    remove(*files_of(data, whole.images[2][0]))
    trainer, _ = run(tiny_config(**{**KEYS, "SOLVER__MAX_ITER": 2}))
    assert not trainer.stopped


def test_bad_images_are_replaced_logged_once_and_counted(tiny_config, data, tmp_path, caplog):
    _, whole = run(tiny_config(**KEYS))
    first, second = whole.images[1]
    told = [truncate(*files_of(data, first)), enlarge(*files_of(data, second))]
    recorders = []
    for workers in (0, 2):
        caplog.clear()
        _, recorder = run(tiny_config(**SKIP, DATALOADER__NUM_WORKERS=workers))
        lines = [m for m in caplog.messages if m.startswith("bad image, another takes its place: ")]
        assert len(lines) == 2
        assert all(any(text in line for line in lines) for text in told)
        recorders.append(recorder)
    with_none, with_two = recorders
    assert with_none.images == with_two.images
    assert with_none.losses == with_two.losses
    assert len(shown(with_none)) == 12
    assert not {first, second} & set(shown(with_none))
    # All others are where they were.
    kept = [(i, w) for i, w in zip(shown(with_none), shown(whole), strict=True) if i != w]
    assert {w for _, w in kept} == {first, second}
    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    assert json.loads(lines[-1])["bad_images"] == 2


@pytest.mark.parametrize("ways", [[enlarge, truncate], [truncate] * 6], ids=["two", "all"])
def test_more_bad_images_than_the_limit_stop_the_run(ways, tiny_config, data, tmp_path):
    _, whole = run(tiny_config(**KEYS, OUTPUT_DIR=tmp_path / "whole"))
    images = dict.fromkeys(shown(whole))
    for damage, image in zip(ways, reversed(images), strict=False):
        damage(*files_of(data, image))
    with pytest.raises(UserError) as error:
        run(tiny_config(**SKIP, DATALOADER__MAX_BAD_IMAGES=1))
    assert "2 bad images are more than DATALOADER.MAX_BAD_IMAGES (1), the latest: " in str(
        error.value
    )
    saved = (tmp_path / "run" / "last_checkpoint").exists()
    assert saved == (len(ways) == 2)
    assert ("--resume" in str(error.value)) == saved


def test_all_images_bad_below_the_limit(tiny_config, data):
    for image in (data / "toy_train").glob("*.jpg"):
        image.unlink()
    # The first, the middle and the last file are looked for when the set is loaded.
    for image in ("000001", "000004", "000006"):
        (data / "toy_train" / f"{image}.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="none of the 6 training images can be used, 6 are bad"):
        run(tiny_config(**SKIP))
