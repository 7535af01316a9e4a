"""Models on Hugging Face: upload, download, and loading from the cache."""

import os
import subprocess
import sys

import huggingface_hub.constants
import pytest
import torch

import ita
from ita.errors import UserError
from ita.files import PACKAGE
from tests.predictor.fake_hub import running_hub

SCRIPT = """
import ita

model = ita.load()
print(model.push_to_hub("me/drawn.shapes-1"))
again = ita.load("me/drawn.shapes-1")
print(sorted(again.model.state_dict()) == sorted(model.model.state_dict()))
for failing in (lambda: ita.load("me/unknown"), lambda: model.push_to_hub("unnamed")):
    try:
        failing()
    except ita.UserError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def round_trip(tmp_path_factory):
    """A model uploaded and downloaded in another process: its output, the files, the cache."""
    cache = tmp_path_factory.mktemp("cache")
    with running_hub("secret") as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "HF_TOKEN": "secret"}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            capture_output=True,
            text=True,
            env=os.environ | environment | {"HF_HUB_OFFLINE": "0"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines(), hub.repositories, cache / "hub"


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No connection, and an empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def test_an_uploaded_model_can_be_loaded_by_its_name(round_trip, toy, tmp_path):
    lines, repositories, _ = round_trip
    assert lines[0].endswith("/me/drawn.shapes-1/commit/0123456789012345678901234567890123456789")
    assert lines[1] == "True"
    toy.save(tmp_path / "model")
    assert repositories == {
        "me/drawn.shapes-1": {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}
    }


def test_failures_are_one_line_each(round_trip):
    unknown, unnamed = round_trip[0][2:]
    assert unknown.startswith("there is no folder me/unknown, and no model of this name")
    assert "RepositoryNotFoundError" in unknown
    assert unnamed == "a model on Hugging Face is named user/name, not 'unnamed'"


@pytest.mark.usefixtures("offline")
def test_a_model_in_the_cache_needs_no_connection(round_trip, toy, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(round_trip[2]))
    weights = ita.load("me/drawn.shapes-1", precision="float32").model.state_dict()
    for name, tensor in toy.model.state_dict().items():
        assert torch.equal(weights[name], tensor)


@pytest.mark.usefixtures("offline")
def test_without_connection_one_line_says_so():
    with pytest.raises(UserError, match=r"could be had from Hugging Face \(LocalEntryNotFound"):
        ita.load("me/model")


@pytest.mark.usefixtures("offline")
def test_an_upload_without_connection_is_one_line(toy):
    with pytest.raises(UserError, match=r"cannot upload me/model .*OfflineModeIsEnabled") as caught:
        toy.push_to_hub("me/model")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("offline")
def test_a_folder_comes_before_a_model_of_its_name(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toy.save("me/model")
    assert ita.load("me/model").model.train_class_list == toy.model.train_class_list


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    "name", ["configs/unknown.yaml", "configs/unknown.yml", "unknown", "a/b/c"]
)
def test_names_that_no_model_on_hugging_face_has(name):
    with pytest.raises(UserError, match="config file not found"):
        ita.load(name)


@pytest.mark.usefixtures("offline")
def test_a_clip_that_others_do_not_have_is_not_uploaded(tmp_path):
    path = tmp_path / "clip.json"
    path.write_bytes((PACKAGE / "toy" / "clip" / "open_clip_config.json").read_bytes())
    model = ita.load(
        PACKAGE / "toy" / "model", overrides=["MODEL.FC_CLIP.CLIP_MODEL_NAME", str(path)]
    )
    with pytest.raises(UserError, match=f"others do not have {path}"):
        model.push_to_hub("me/model")
