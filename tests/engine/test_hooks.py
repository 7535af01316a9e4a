from types import SimpleNamespace

import torch
from detectron2.utils.events import EventStorage

from ita.engine import hooks
from ita.engine.hooks import SkippedImages, Throughput


def test_skipped_images_of_all_processes_in_the_iterations_that_are_logged(monkeypatch):
    monkeypatch.setattr(hooks.comm, "all_gather", lambda value: [value, 30])
    counter = SimpleNamespace(value=4)
    hook, logged = SkippedImages(counter, period=2), {}
    with EventStorage() as storage:
        for iteration in range(5):
            hook.trainer = SimpleNamespace(iter=iteration, max_iter=5, storage=storage)
            storage.iter = iteration
            counter.value += 1
            hook.after_step()
            if "skipped_images" in storage.latest():
                value, at = storage.latest()["skipped_images"]
                logged[at] = value
    assert logged == {1: 36, 3: 38, 4: 39}


def test_images_per_second_are_those_of_the_whole_job():
    hook = Throughput(16, torch.device("cpu"))
    with EventStorage() as storage:
        hook.trainer = SimpleNamespace(iter=0, storage=storage)
        storage.put_scalar("time", 0.5)
        hook.after_step()
        assert storage.latest()["images_per_second"][0] == 32
        assert storage.latest()["memory_gb"][0] > 0.05
