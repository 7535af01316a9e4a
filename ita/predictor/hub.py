"""Model folders on Hugging Face: download and upload."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import huggingface_hub

from ita.errors import UserError
from ita.modeling.storage import reason
from ita.predictor.model_folder import CONFIG_NAME, MODEL_FILES

# USER/NAME, where a config file has a suffix.
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(?<!\.yaml)(?<!\.yml)")


def is_hub_id(text: str) -> bool:
    """Whether a text has the form of a Hugging Face id, ``user/name``."""
    return _HUB_ID.fullmatch(text) is not None


def download_model(hub_id: str) -> Path:
    """Return the folder of a model in the cache of Hugging Face, downloaded if necessary.

    Only the files of a model folder are downloaded, none of which can run code.

    Raises:
        UserError: there is no such model, or it is not in the cache and cannot be downloaded.
    """
    try:
        folder = huggingface_hub.snapshot_download(hub_id, allow_patterns=list(MODEL_FILES))
    except Exception as error:  # the client raises its own types and those of its HTTP library
        raise UserError(
            f"there is no folder {hub_id}, and no model of this name could be had from Hugging "
            f"Face ({reason(error)})"
        ) from error
    if not Path(folder, CONFIG_NAME).is_file():
        raise UserError(f"{hub_id} on Hugging Face is not a model of ita: it has no {CONFIG_NAME}")
    return Path(folder)


def upload_model(hub_id: str, save: Callable[[Path], None], *, private: bool) -> str:
    """Upload a model folder, creating its repository if necessary.

    Args:
        hub_id: ``user/name``.
        save: writes the folder.
        private: whether a new repository can be seen by its owner only.

    Returns:
        The address of the commit.

    Raises:
        UserError: the id is malformed, or the upload fails, for example without permission.
    """
    if not is_hub_id(hub_id):
        raise UserError(f"a model on Hugging Face is named user/name, not {hub_id!r}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "model")
        save(folder)
        api = huggingface_hub.HfApi()
        try:
            api.create_repo(hub_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=hub_id, folder_path=folder, commit_message="Upload model"
            )
        except Exception as error:  # as above
            raise UserError(
                f"cannot upload {hub_id} to Hugging Face ({reason(error)}); without a login, run "
                "hf auth login first"
            ) from error
    return commit.commit_url
