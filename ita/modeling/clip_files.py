"""Finding of CLIP weights: files, folders, the Hugging Face cache, open_clip's tags.

All layouts are described in :data:`GUIDE`.
"""

import logging
import posixpath
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import open_clip
from detectron2.utils import comm
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError

from ita.errors import UserError
from ita.files import PACKAGE, find_file, sha256_of
from ita.modeling.storage import reason

logger = logging.getLogger(__name__)

GUIDE = "laionCLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup/vision-language-model.md"

# File names of published open_clip weights, in order of preference.
WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
# Parent folders searched for the weights folder of an open_clip tag.
SEARCH_ROOTS = (Path(), PACKAGE.parent)
# Where open_clip and OpenAI's package put OpenAI's files.
OPENAI_CACHE = Path("~/.cache/clip")
# Seconds to wait for an answer of the Hub before a download.
REACH_SECONDS = 3.0


def find_weights(model_name: str, weights: str) -> Path:
    """Return the weights file that ``weights`` selects, downloaded if necessary.

    One process of the job downloads into open_clip's cache, then one per machine that does not
    share that cache; the others find the file there.

    Args:
        model_name: an open_clip model name; its tags are valid ``weights``.
        weights: an open_clip tag; a file; or a folder with one weights file, which may be a
            repository of a Hugging Face cache, or that cache.

    Raises:
        UserError: the weights are not found and cannot be downloaded; the message names the file
            and folder to provide.
    """
    found = find_local_weights(model_name, weights)
    # Processes that found a file synchronize too, as other machines may lack it.
    for may_download in (comm.is_main_process(), comm.get_local_rank() == 0, True):
        if may_download and found is None:
            found = _download(model_name, weights)
        comm.synchronize()
    assert found is not None
    return found


def find_local_weights(model_name: str, weights: str) -> Path | None:
    """Return the weights file like :func:`find_weights`; None if it would have to be downloaded."""
    path = find_file(weights)
    if path.is_file():
        return path
    if path.is_dir():
        return _file_in_folder(path, model_name)
    tag_config = open_clip.get_pretrained_cfg(model_name, weights)
    if not tag_config:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model_name)) or "none"
        raise UserError(
            f"CLIP weights {weights!r} are not a file, a folder or an open_clip tag of "
            f"{model_name} (its tags: {tags})"
        )
    return _file_in_hub_folder(tag_config) or _file_in_cache(tag_config)


def hub_folder(tag_config: Mapping[str, Any]) -> str:
    """Return the name of the folder that is searched for a tag's weights.

    It is the Hugging Face id without the slash, as in the paper's README:
    ``laionCLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup``.
    """
    return _hub_id(tag_config).replace("/", "")


def _hub_id(tag_config: Mapping[str, Any]) -> str:
    """Return the Hugging Face repository of a tag; open_clip adds "/" and possibly a file."""
    return posixpath.dirname(tag_config.get("hf_hub", ""))


def _file_in_hub_folder(tag_config: Mapping[str, Any]) -> Path | None:
    folder_name = hub_folder(tag_config)
    for root in SEARCH_ROOTS:
        for name in WEIGHT_FILES:
            if folder_name and (root / folder_name / name).is_file():
                return root / folder_name / name
    return None


def _file_in_cache(tag_config: Mapping[str, Any]) -> Path | None:
    """Return a tag's file in the cache of Hugging Face or OpenAI, without any download."""
    for name in WEIGHT_FILES if _hub_id(tag_config) else ():
        cached = try_to_load_from_cache(_hub_id(tag_config), name)
        if isinstance(cached, str):
            return Path(cached)
    url = tag_config.get("url", "")
    path = OPENAI_CACHE.expanduser() / posixpath.basename(url)
    # open_clip would replace a damaged file, in every process at once.
    return path if url and path.is_file() and _has_hash_of(path, url) else None


def _has_hash_of(path: Path, url: str) -> bool:
    """Whether a file has the SHA-256 in its address: in the folder's name, or cut in the file's."""
    sha256 = sha256_of(path)
    return f"/{sha256}/" in url or f"-{sha256[:8]}." in url


def _download(model_name: str, tag: str) -> Path:
    tag_config = open_clip.get_pretrained_cfg(model_name, tag)
    try:
        with _quiet_hub():
            size = _size_on_hub(tag_config)
            # A warning, so that programs without a log show it, too.
            logger.warning("downloading the weights of CLIP %s, %s", model_name, size)
            return Path(open_clip.download_pretrained(tag_config))
    except Exception as error:  # network failures raise almost any exception
        source = _hub_id(tag_config) or tag_config.get("url")
        raise UserError(
            f"CLIP weights {tag} of {model_name} were not found and cannot be downloaded "
            f"({reason(error)}): put {WEIGHT_FILES[1]} of {source} into the folder "
            f"{hub_folder(tag_config)}, or pass the path of a weights file (see Offline in {GUIDE})"
        ) from error


def _size_on_hub(tag_config: Mapping[str, Any]) -> str:
    """Describe the size of a tag's file on the Hub, which must answer at once.

    Downloads retry for a minute before they give up, also where there is no network at all.

    Raises:
        Exception: the Hub client's, if the Hub cannot be reached or lacks the file.
    """
    repository, name = posixpath.split(tag_config.get("hf_hub", ""))
    for candidate in (name,) if name else WEIGHT_FILES:
        with suppress(EntryNotFoundError):
            url = hf_hub_url(repository, candidate)
            size = get_hf_file_metadata(url, timeout=REACH_SECONDS).size
            return f"{size / 1e9:.1f} GB" if size else "of unknown size"
    raise FileNotFoundError(f"{repository} has no {' or '.join(WEIGHT_FILES)}")


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Suppress the hub client's log of its retries; only the final error is reported."""
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        hub.setLevel(level)


def _file_in_folder(folder: Path, model_name: str) -> Path:
    folder = _snapshot(_repository(folder, model_name))
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    files = sorted(f for f in folder.iterdir() if f.suffix in WEIGHT_SUFFIXES)
    if len(files) != 1:
        found = ", ".join(f.name for f in files) or "none"
        raise UserError(
            f"folder {folder} must contain one file of CLIP weights ({' or '.join(WEIGHT_FILES)}); "
            f"found {found}: give the path of the file"
        )
    return files[0]


def _repository(folder: Path, model_name: str) -> Path:
    """Return a model's repository if a folder is a Hugging Face cache, else the folder."""
    hub = folder / "hub" if (folder / "hub").is_dir() else folder
    if not any(hub.glob("models--*")):
        return folder
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    ids = {_hub_id(open_clip.get_pretrained_cfg(model_name, tag)) for tag in tags}
    names = sorted(f"models--{hub_id.replace('/', '--')}" for hub_id in ids)
    found = [hub / name for name in names if (hub / name).is_dir()]
    if len(found) != 1:
        raise UserError(
            f"the Hugging Face cache {hub} contains {len(found)} of the repositories of "
            f"{model_name} ({', '.join(names) or 'none'}): give the path of one of its folders"
        )
    return found[0]


def _snapshot(folder: Path) -> Path:
    """Select the current version if a folder is a repository in a Hugging Face cache."""
    if not (folder / "snapshots").is_dir():
        return folder
    versions = sorted(path for path in (folder / "snapshots").iterdir() if path.is_dir())
    main = folder / "refs" / "main"
    if main.is_file():
        current = folder / "snapshots" / main.read_text(encoding="utf-8").strip()
        versions = [current] if current in versions else versions
    if len(versions) != 1:
        raise UserError(
            f"folder {folder / 'snapshots'} must contain one version of the repository; found "
            f"{len(versions)}: give the path of one"
        )
    return versions[0]
