"""Where the weights of a CLIP are found: tags, folders, caches of Hugging Face and OpenAI."""

import hashlib
from pathlib import Path

import huggingface_hub.constants
import open_clip
import pytest

from ita.errors import UserError
from ita.files import PACKAGE
from ita.modeling import clip_files
from ita.modeling.clip_files import find_weights
from tests.modeling.local_hub import NOWHERE, use_endpoint
from tests.terminal import run_on_terminal

MODEL, TAG = "convnext_large_d_320", "laion2b_s29b_b131k_ft_soup"
# As in the README of the paper's code.
FOLDER = "laionCLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup"
REPOSITORY = "models--laion--CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup"
OTHER = "models--laion--CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft"
HASH = "0123456789abcdef0123456789abcdef01234567"


BIN, SAFETENSORS = "open_clip_pytorch_model.bin", "open_clip_model.safetensors"


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """No network, and no weights but those that a test provides."""
    use_endpoint(NOWHERE, monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clip_files, "SEARCH_ROOTS", (Path(),))
    monkeypatch.setattr(clip_files, "OPENAI_CACHE", tmp_path / "clip")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_the_published_names_come_first_in_a_folder(tmp_path):
    for name in ("a.pt", "open_clip_pytorch_model.bin"):
        (tmp_path / name).touch()
        assert find_weights(MODEL, str(tmp_path)).name == name
    (tmp_path / "open_clip_model.safetensors").touch()
    assert find_weights(MODEL, str(tmp_path)).name == "open_clip_model.safetensors"


@pytest.mark.parametrize("names", [[], ["a.pt", "b.bin"], ["a.txt"]])
def test_folders_without_a_clear_choice(names, tmp_path):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"open_clip_model.*give the path") as caught:
        find_weights(MODEL, str(tmp_path))
    assert all(name in str(caught.value) for name in names if not name.endswith(".txt"))


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors"])
def test_the_readmes_folder_is_found_without_being_named(name, tmp_path, monkeypatch):
    """In the working directory and beside the package, whatever the working directory is."""
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / name).touch()
    with monkeypatch.context() as context:
        context.chdir(tmp_path)
        assert find_weights(MODEL, TAG).resolve() == tmp_path / FOLDER / name
    monkeypatch.setattr(clip_files, "SEARCH_ROOTS", (tmp_path / "nowhere", tmp_path))
    assert find_weights(MODEL, TAG) == tmp_path / FOLDER / name
    with pytest.raises(UserError):
        find_weights(MODEL, "laion2b_s29b_b131k_ft")


@pytest.mark.parametrize("at_hand", [False, True])
@pytest.mark.parametrize(("rank", "local_rank"), [(0, 0), (4, 0), (5, 1)])
def test_processes_download_in_turn(rank, local_rank, at_hand, tmp_path, monkeypatch, hub):
    """The job's main process, each machine's, the rest; who has the file waits like the others."""
    events = hub.requests
    monkeypatch.setattr(clip_files.comm, "is_main_process", lambda: rank == 0)
    monkeypatch.setattr(clip_files.comm, "get_local_rank", lambda: local_rank)
    monkeypatch.setattr(clip_files.comm, "synchronize", lambda: events.append("wait"))
    monkeypatch.setattr(clip_files, "SEARCH_ROOTS", (tmp_path,))
    if at_hand:
        (tmp_path / FOLDER).mkdir()
        (tmp_path / FOLDER / "open_clip_model.safetensors").touch()
    path = find_weights(MODEL, TAG)
    assert path.name == (SAFETENSORS if at_hand else BIN)
    expected = ["wait"] * 3
    if not at_hand:
        expected.insert({0: 0, 4: 1, 5: 2}[rank], ("GET", BIN))
    assert [event for event in events if "HEAD" not in event] == expected


def test_a_download_says_how_much_it_is(hub, tmp_path, caplog):
    hub.files[BIN] = bytes(60_000_000)
    path = find_weights(MODEL, TAG)
    assert path.is_relative_to(tmp_path / "hub")
    assert path.stat().st_size == 60_000_000
    assert caplog.messages == [f"downloading the weights of CLIP {MODEL}, 0.1 GB"]
    assert find_weights(MODEL, TAG) == path
    assert [request for request in hub.requests if "GET" in request] == [("GET", BIN)]


def test_safetensors_are_preferred(hub):
    hub.files[SAFETENSORS] = b"weights"
    assert find_weights(MODEL, TAG).name == SAFETENSORS


def test_a_download_is_a_bar_on_a_terminal(hub, tmp_path):
    code, output = run_on_terminal(
        "-c",
        f"from ita.modeling.clip_files import find_weights; find_weights({MODEL!r}, {TAG!r})",
        HF_ENDPOINT=hub.url,
        HF_HUB_CACHE=str(tmp_path / "hub"),
        HF_HUB_OFFLINE="0",
    )
    assert code == 0, output
    assert f"downloading the weights of CLIP {MODEL}" in output
    assert "B/s" in output


@pytest.mark.parametrize("answer", ["nothing", "an error", "no such file"])
def test_without_the_hub_one_line_says_why_and_what_to_do(answer, hub, monkeypatch, caplog):
    """At once: the Hub is asked for each of the files, and not a second time."""
    hub.files.clear()
    hub.failing = answer == "an error"
    if answer == "nothing":
        use_endpoint(NOWHERE, monkeypatch)
    with pytest.raises(UserError) as caught:
        find_weights(MODEL, TAG)
    cause = {
        "nothing": "Connection refused",
        "an error": "503",
        "no such file": f"no {SAFETENSORS}",
    }
    assert cause[answer] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert f"{BIN} of laion/{FOLDER[5:]} into the folder {FOLDER}" in str(caught.value)
    page = str(caught.value).rpartition("see Offline in ")[2].rstrip(")")
    assert "## Offline" in (PACKAGE.parent / page).read_text()
    assert len(hub.requests) == len(set(hub.requests))
    assert not caplog.messages


def add_version(hub, repository=REPOSITORY, name="open_clip_pytorch_model.bin", commit=HASH):
    """Lay out a download as huggingface_hub does: a snapshot of links to blobs."""
    folder = hub / repository
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    (folder / "blobs" / commit[::-1]).write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "snapshots" / commit / name).symlink_to(f"../../blobs/{commit[::-1]}")
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    return folder / "snapshots" / commit / name


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors"])
def test_a_tag_is_found_in_the_cache_of_hugging_face(name, tmp_path):
    file = add_version(tmp_path / "hub", name=name)
    assert find_weights(MODEL, TAG) == file
    with pytest.raises(UserError, match="cannot be downloaded"):
        find_weights(MODEL, "laion2b_s29b_b131k_ft")


@pytest.mark.parametrize(
    "folder", ["", "hub", f"hub/{REPOSITORY}", f"hub/{REPOSITORY}/snapshots/{HASH}"]
)
def test_any_folder_of_the_cache_can_be_given(folder, tmp_path):
    file = add_version(tmp_path / "hub")
    add_version(tmp_path / "hub", "models--timm--resnet50_clip.openai")
    assert find_weights(MODEL, str(tmp_path / folder)) == file


def test_the_current_version_is_taken(tmp_path):
    add_version(tmp_path / "hub", commit="a" * 40)
    newer = add_version(tmp_path / "hub", commit="b" * 40)
    add_version(tmp_path / "hub", OTHER)
    repository = tmp_path / "hub" / REPOSITORY
    assert find_weights(MODEL, str(repository)) == newer
    (repository / "refs" / "main").unlink()
    with pytest.raises(UserError, match="one version of the repository; found 2: give the path"):
        find_weights(MODEL, str(repository))


@pytest.mark.parametrize("repositories", [[], [REPOSITORY, OTHER]])
def test_a_cache_without_a_clear_choice(repositories, tmp_path):
    for repository in [*repositories, "models--timm--resnet50_clip.openai"]:
        add_version(tmp_path / "hub", repository)
    said = f"contains {len(repositories)} of the repositories of {MODEL} .*{OTHER}, {REPOSITORY}"
    with pytest.raises(UserError, match=said):
        find_weights(MODEL, str(tmp_path))


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("RN50.pt", "https://openaipublic/{sha256}/RN50.pt"),
        ("rn50-cc12m-{sha256:.8}.pt", "https://mlfoundations/v0.2/rn50-cc12m-{sha256:.8}.pt"),
    ],
)
def test_openais_cache(name, url, tmp_path, monkeypatch):
    """As written by OpenAI's package and by open_clip, if the file has the hash in its address."""
    content = b"weights"
    sha256 = hashlib.sha256(content).hexdigest()
    file = tmp_path / "clip" / name.format(sha256=sha256)
    file.parent.mkdir()
    file.write_bytes(content)
    tag = {"hf_hub": "timm/resnet50_clip.openai/", "url": url.format(sha256=sha256)}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: tag)
    assert find_weights("RN50", "openai") == file
    file.write_bytes(b"wei")
    with pytest.raises(UserError, match=r"RN50.*cannot be downloaded"):
        find_weights("RN50", "openai")


def test_processes_wait_their_turn_to_replace_a_damaged_file(tmp_path, monkeypatch, hub):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "RN50.pt").write_bytes(b"wei")
    events = hub.requests
    monkeypatch.setattr(clip_files.comm, "is_main_process", lambda: False)
    monkeypatch.setattr(clip_files.comm, "get_local_rank", lambda: 1)
    monkeypatch.setattr(clip_files.comm, "synchronize", lambda: events.append("wait"))

    assert find_weights("RN50", "openai").is_relative_to(tmp_path / "hub")
    events = [event for event in events if "HEAD" not in event]
    assert events == ["wait", "wait", ("GET", BIN), "wait"]
