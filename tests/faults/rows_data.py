"""Faults of images and labels."""

import shutil

import numpy as np
from PIL import Image

from tests.engine.tiny import CONFIG, overrides
from tests.faults.fault import fault
from tests.faults.world import SHORT

# Two epochs of three steps, saved at the end only.
KEYS = {**SHORT, "SOLVER__MAX_ITER": 6, "SOLVER__CHECKPOINT_PERIOD": 0}
TWO_PROCESSES = ("--num-gpus", "2", "--dist-url", "auto")


def own_scenes(world):
    """Return a folder with scenes that a fault may damage."""
    root = world.folder / "scenes"
    shutil.copytree(world.scenes, root)
    return root


def train(world, *words, **keys):
    """Train on these scenes."""
    keys = overrides(**{"OUTPUT_DIR": world.run, **KEYS, **keys})
    words = ("train", *words, "--config-file", CONFIG, *keys)
    return world.ita(*words, DETECTRON2_DATASETS=str(world.folder / "scenes"))


def image(world, number):
    """Return a training image; that the first, middle and last exist is checked at the start."""
    return world.folder / "scenes" / "toy" / "toy_train" / f"{number:06d}.jpg"


def label(world, number):
    """Return the panoptic PNG of a training image."""
    return world.folder / "scenes" / "toy" / "panoptic_train" / f"{number:06d}.png"


def truncate(path):
    """Cut off the end of a file."""
    path.write_bytes(path.read_bytes()[:-200])


@fault(
    done="truncated training image",
    seen="image file is truncated",
    code=1,
    left="checkpoints of iterations 1",
)
def truncated_image(world):
    own_scenes(world)
    truncate(image(world, 3))
    return train(world)


@fault(
    done="truncated training image, with data loader workers",
    seen="saved after iteration 1 of 6: mend the data and continue with --resume",
    code=1,
    left="checkpoints of iterations 1",
)
def truncated_image_in_a_worker(world):
    own_scenes(world)
    truncate(image(world, 3))
    return train(world, DATALOADER__NUM_WORKERS=1)


@fault(
    done="truncated training image of the second of two processes",
    seen="saved after iteration 1 of 6: mend the data and continue with --resume",
    code=1,
    left="checkpoints of iterations 1",
    slow=True,
    any_number_of_lines=True,  # libraries warn in each process
)
def truncated_image_of_the_second_process(world):
    own_scenes(world)
    truncate(image(world, 3))
    return train(world, *TWO_PROCESSES, DATALOADER__NUM_WORKERS=1)


@fault(
    done="truncated image in the first step of the second of two processes",
    seen="image file is truncated",
    code=1,
    left="a log",
    slow=True,
    any_number_of_lines=True,  # libraries warn in each process
)
def first_image_of_the_second_process(world):
    own_scenes(world)
    truncate(image(world, 1))
    return train(world, *TWO_PROCESSES)


@fault(
    done="truncated training image, mended, --resume",
    seen="Training from iteration 1 to 6",
    code=0,
    left="checkpoints of iterations 1, 6",
)
def mended_image(world):
    own_scenes(world)
    path = image(world, 3)
    content = path.read_bytes()
    truncate(path)
    train(world)
    path.write_bytes(content)
    return train(world, "--resume")


@fault(
    done="missing training image",
    seen="No such file or directory; saved after iteration 1 of 6",
    code=1,
    left="checkpoints of iterations 1",
)
def missing_image(world):
    own_scenes(world)
    image(world, 3).unlink()
    return train(world)


@fault(
    done="training image of another size than its label",
    seen="is (80, 64) (width, height), not (64, 64); saved after iteration 1 of 6",
    code=1,
    left="checkpoints of iterations 1",
)
def image_of_another_size(world):
    own_scenes(world)
    Image.new("RGB", (80, 64)).save(image(world, 3))
    return train(world)


@fault(
    done="segment id in a panoptic PNG that its json lacks",
    seen="segment id 250 is not in the panoptic json; saved after iteration 1 of 6",
    code=1,
    left="checkpoints of iterations 1",
)
def unknown_segment(world):
    own_scenes(world)
    path = label(world, 3)
    pixels = np.array(Image.open(path))
    pixels[0, 0] = (250, 0, 0)
    Image.fromarray(pixels).save(path)
    return train(world)


@fault(
    done="two bad training images, DATALOADER.ON_ERROR skip",
    seen="bad images 2",
    code=0,
    left="checkpoints of iterations 6",
)
def skipped_images(world):
    own_scenes(world)
    truncate(image(world, 3))
    truncate(label(world, 4))
    return train(world, DATALOADER__ON_ERROR="skip", DATALOADER__NUM_WORKERS=2)


@fault(
    done="bad training images of both processes, DATALOADER.ON_ERROR skip",
    seen="bad images 2",
    code=0,
    left="checkpoints of iterations 6",
    slow=True,
)
def skipped_images_of_two_processes(world):
    own_scenes(world)
    truncate(image(world, 3))
    truncate(label(world, 4))
    return train(world, *TWO_PROCESSES, DATALOADER__ON_ERROR="skip")


@fault(
    done="more bad training images than DATALOADER.MAX_BAD_IMAGES",
    seen="2 bad images are more than DATALOADER.MAX_BAD_IMAGES (1), the latest: cannot read image",
    code=1,
    left="checkpoints of iterations 1",
)
def too_many_bad_images(world):
    own_scenes(world)
    truncate(image(world, 3))
    truncate(image(world, 2))
    keys = {"DATALOADER__ON_ERROR": "skip", "DATALOADER__MAX_BAD_IMAGES": 1}
    return train(world, **keys)


@fault(
    done="missing and empty files, DATALOADER.CHECK_FILES True",
    seen="error: bad files: 2 in the training set, see above; mend them",
    code=1,
    left="nothing",
)
def checked_files(world):
    own_scenes(world)
    image(world, 3).unlink()
    label(world, 2).write_bytes(b"")
    return train(world, DATALOADER__CHECK_FILES=True)


@fault(
    done="a missing file, DATALOADER.CHECK_FILES True, DATALOADER.ON_ERROR skip",
    seen="bad images 1",
    code=0,
    left="checkpoints of iterations 6",
)
def checked_and_skipped_files(world):
    own_scenes(world)
    image(world, 3).unlink()
    return train(world, DATALOADER__CHECK_FILES=True, DATALOADER__ON_ERROR="skip")


@fault(
    done="an empty label of the test set, DATALOADER.CHECK_FILES True, DATALOADER.ON_ERROR skip",
    seen="error: bad files: 1 in toy_val, see above; mend them",
    code=1,
    left="nothing",
)
def checked_test_files(world):
    root = own_scenes(world)
    (root / "toy" / "panoptic_val" / "000002.png").write_bytes(b"")
    keys = {"DATALOADER__ON_ERROR": "skip", "DATASETS__TEST": ("toy_val",)}
    return train(world, DATALOADER__CHECK_FILES=True, **keys)


@fault(
    done="truncated test image, DATALOADER.ON_ERROR skip",
    seen="image file is truncated",
    code=1,
    left="checkpoints of iterations 6",
)
def bad_test_image(world):
    root = own_scenes(world)
    truncate(root / "toy" / "toy_val" / "000002.jpg")
    return train(world, DATALOADER__ON_ERROR="skip", DATASETS__TEST=("toy_val",))


@fault(
    done="truncated test image, met by an evaluation during training",
    seen="the evaluation failed; --resume continues after it",
    code=1,
    left="checkpoints of iterations 1",
)
def truncated_test_image(world):
    own_scenes(world)
    truncate(world.folder / "scenes" / "toy" / "toy_val" / "000001.jpg")
    return train(world, DATASETS__TEST=("toy_val",), TEST__EVAL_PERIOD=1)
