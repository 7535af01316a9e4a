import errno
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog

from ita.data.loaders import build_test_loader, build_train_loader
from ita.data.mapper import InferenceMapper, TrainingMapper
from ita.errors import UserError
from ita.shortages import Shortage, shortage_of
from tests.data.mini import DOG, PERSON, random_image


@pytest.fixture
def five(panoptic):
    """Five images, the third all void and the fourth all crowd."""
    for number in range(5):
        ids = np.full((12, 16), 0 if number == 2 else 1)
        segments = {} if number == 2 else {1: (PERSON, int(number == 3))}
        panoptic.add(random_image(12, 16, seed=number), ids, segments)
    panoptic.register()
    return panoptic


def training_mapper() -> TrainingMapper:
    metadata = MetadataCatalog.get("mini")
    return TrainingMapper(metadata, image_size=16, min_scale=1, max_scale=1, flip="none", pad=True)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_unusable_images_are_replaced_and_counted(five, num_workers):
    mapper = training_mapper()
    loader = build_train_loader(
        ["mini"], mapper, total_batch_size=2, num_workers=num_workers, seed=3
    )
    batches = list(itertools.islice(loader, 20))
    assert all(len(batch) == 2 for batch in batches)
    ids = [mapped["image_id"] for batch in batches for mapped in batch]
    assert set(ids) == {0, 1, 4}
    assert mapper.num_skipped.value >= 2
    assert all(len(mapped["instances"]) == 1 for batch in batches for mapped in batch)
    assert loader.num_images == 5


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_set_without_one_usable_image(panoptic, num_workers):
    for _ in range(3):
        panoptic.add(random_image(4, 4), np.ones((4, 4), int), {1: (DOG, 1)})
    panoptic.register()
    loader = build_train_loader(
        ["mini"], training_mapper(), total_batch_size=1, num_workers=num_workers
    )
    with pytest.raises(UserError, match="none of the 3 training images has a usable label"):
        next(iter(loader))


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("training", [True, False])
def test_errors_of_loading_processes_arrive_as_one_line(five, num_workers, training):
    path = five.root / "images" / "001.png"
    path.write_bytes(path.read_bytes()[:100])
    if training:
        loader = build_train_loader(
            ["mini"], training_mapper(), total_batch_size=1, num_workers=num_workers
        )
    else:
        mapper = InferenceMapper(min_size=20, max_size=40)
        loader = build_test_loader("mini", mapper, num_workers=num_workers)
    with pytest.raises(UserError) as error:
        list(itertools.islice(loader, 20))
    assert str(error.value).startswith(f"cannot read image {path}: ")
    assert "\n" not in str(error.value)


class BrokenHandover:
    """Cannot be received, like a batch whose worker is killed while it hands it over."""

    def __reduce__(self):
        return _reset, ()


def _reset():
    raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))


@pytest.mark.parametrize("training", [True, False])
def test_a_connection_lost_to_a_worker_is_told_as_its_end(five, training):
    def mapper(record):
        return {"image": BrokenHandover()}

    if training:
        loader = build_train_loader(["mini"], mapper, total_batch_size=1, num_workers=1)
    else:
        loader = build_test_loader("mini", mapper, num_workers=1)
    with pytest.raises(RuntimeError) as error:
        next(iter(loader))
    assert shortage_of(error.value) is Shortage.WORKER


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_lost_connection_of_the_mapper_stays_one(five, num_workers):
    def mapper(record):
        _reset()

    loader = build_test_loader("mini", mapper, num_workers=num_workers)
    with pytest.raises(ConnectionResetError):
        next(iter(loader))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_inference_sees_every_image_once_in_order(five, num_workers):
    loader = build_test_loader(
        "mini", InferenceMapper(min_size=24, max_size=40), num_workers=num_workers
    )
    batches = list(loader)
    assert [[mapped["image_id"] for mapped in batch] for batch in batches] == [
        [i] for i in range(5)
    ]
    assert len(loader) == 5
    assert batches[0][0]["image"].shape == (3, 24, 32)


def test_every_epoch_has_every_image_and_the_seed_decides_the_order(five):
    def order(seed: int) -> list[int]:
        mapper = InferenceMapper(min_size=12, max_size=16)
        loader = build_train_loader(["mini"], mapper, total_batch_size=1, num_workers=0, seed=seed)
        return [batch[0]["image_id"] for batch in itertools.islice(loader, 10)]

    first = order(0)
    assert sorted(first[:5]) == sorted(first[5:]) == [0, 1, 2, 3, 4]
    assert order(0) == first
    assert order(1) != first


@pytest.mark.parametrize(("batch_size", "world_size"), [(3, 2), (0, 1), (1, 2)])
def test_batch_that_cannot_be_shared(five, monkeypatch, batch_size, world_size):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: world_size)
    with pytest.raises(UserError, match=rf"batch size {batch_size} .* {world_size} processes"):
        build_train_loader(
            ["mini"], training_mapper(), total_batch_size=batch_size, num_workers=0, seed=0
        )


def test_names_of_data_sets(five):
    mapper = InferenceMapper(min_size=12, max_size=16)
    with pytest.raises(UserError, match="did you mean mini"):
        build_test_loader("minni", mapper, num_workers=0)
    with pytest.raises(UserError, match="no data set is given"):
        build_train_loader([], mapper, total_batch_size=1, num_workers=0)


def test_sets_are_joined_if_their_classes_agree(five):
    mapper = InferenceMapper(min_size=12, max_size=16)
    five.register("mini_again")
    loader = build_train_loader(
        ["mini", "mini_again"], mapper, total_batch_size=1, num_workers=0, seed=0
    )
    assert loader.num_images == 10
    (five.root / "classes.txt").write_text("1: human\n3: dog\n7: sky\n9: grass\n")
    five.register("mini_other")
    with pytest.raises(UserError, match="mini and mini_other differ in class list"):
        build_train_loader(["mini", "mini_other"], mapper, total_batch_size=1, num_workers=0)


def test_loaded_records_are_fresh_each_time(five):
    """What a model does to a batch must not reach the next epoch."""
    mapper = InferenceMapper(min_size=12, max_size=16)
    loader = build_test_loader("mini", mapper, num_workers=0)
    for batch in loader:
        batch[0]["segments_info"] = None
        batch[0]["image"] = torch.zeros(0)
    assert all(batch[0]["segments_info"] is not None for batch in loader)


@pytest.mark.slow
def test_skipped_images_are_counted_in_spawned_processes(five):
    """How loading processes start depends on the platform and on Python's version."""
    five.write_json()
    done = subprocess.run(
        [sys.executable, "-c", COUNT_IN_SPAWNED, str(five.root)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2


COUNT_IN_SPAWNED = """
import itertools, multiprocessing, sys
from pathlib import Path
from detectron2.data import MetadataCatalog
from ita.data.mapper import TrainingMapper
from ita.data.loaders import build_train_loader
from ita.data.registration import register_panoptic

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    root = Path(sys.argv[1])
    json, classes = root / "panoptic.json", root / "classes.txt"
    register_panoptic("mini", root / "images", root / "panoptic", json, classes)
    metadata = MetadataCatalog.get("mini")
    mapper = TrainingMapper(
        metadata, image_size=16, min_scale=1, max_scale=1, flip="horizontal", pad=True
    )
    loader = build_train_loader(["mini"], mapper, total_batch_size=1, num_workers=1, seed=0)
    list(itertools.islice(loader, 10))
    print(mapper.num_skipped.value)
"""
