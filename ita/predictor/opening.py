"""Loading of trained models."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from ita.config import load_config
from ita.engine.loading import load_model
from ita.engine.precision import native_dtype
from ita.engine.setup import best_device, choose_device
from ita.errors import UserError
from ita.files import PACKAGE, find_file
from ita.modeling.storage import reason
from ita.predictor.hub import download_model, is_hub_id
from ita.predictor.model_folder import locate_own_files, model_files
from ita.predictor.predicting import Predictor
from ita.progress import Progress, show_progress

# As a device the one that is there, as a precision the device's.
AUTO = "auto"
# Precisions of matrix products.
PRECISIONS = (AUTO, "float32", "bfloat16", "float16")
# Detectron2's value of MODEL.DEVICE in a config that does not set it.
DEFAULT_DEVICE = "cuda"
TOY_MODEL = PACKAGE / "toy" / "model"


def load(
    config: str | Path | None = None,
    weights: str | Path = "",
    device: str | torch.device | None = None,
    overrides: Sequence[str] = (),
    precision: str = AUTO,
    progress: Progress = show_progress,
) -> Predictor:
    """Load a trained model.

    Args:
        config: a model folder, as written by :meth:`Predictor.save`; the id of one on Hugging Face,
            ``user/name``; or a config file, where ``configs/...`` is found from any directory. None
            selects the toy model that is installed with the package.
        weights: a checkpoint (``.pth`` or ``.safetensors``) of this model, FC-CLIP or the first ITA
            release. Empty selects the folder's, or ``MODEL.WEIGHTS`` of the config file.
        device: device of the model, such as "cpu" or "cuda:1"; "auto" selects a CUDA GPU if one is
            visible, else Apple's GPU (mps), else the CPU. None selects ``MODEL.DEVICE`` of the
            config, or the CPU if that is a GPU and none is visible; for a model folder that sets
            none, it is like "auto".
        overrides: ``KEY VALUE KEY VALUE ...``, applied to the config.
        precision: of matrix products, one of :data:`PRECISIONS`. "auto" selects float16 on GPUs,
            bfloat16 on CPUs that have instructions for it, else float32.
        progress: shows, while names are encoded, how far that has come; by default on a terminal
            and in the log. :func:`ita.progress.no_progress` shows nothing.

    Returns:
        The model in evaluation mode. Its training class list, which determines the seen classes, is
        that of ``DATASETS.TRAIN_VOCABULARY`` if set, else the checkpoint's, else the training data
        set's.

    Raises:
        UserError: a config, checkpoint or CLIP file is missing, damaged or does not fit, or the
            device or the precision cannot be used.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision is {precision!r}; it must be {', '.join(PRECISIONS)}")
    if config is None:
        if weights:
            raise UserError(f"weights {weights} need the config of their model")
        config = TOY_MODEL
    folder = _model_folder(config)
    if folder is not None:
        config, weights = model_files(folder, weights)
    cfg = load_config(find_file(config), overrides)
    if folder is not None:
        locate_own_files(cfg, folder)
        if device is None and cfg.MODEL.DEVICE == DEFAULT_DEVICE:
            device = AUTO
    if device is None:
        choose_device(cfg)
    else:
        cfg.MODEL.DEVICE = str(_checked(best_device() if device == AUTO else device))
    path = str(weights or cfg.MODEL.WEIGHTS)
    if not path:
        raise UserError(f"{config} sets no weights: pass a checkpoint as weights")
    model = load_model(cfg, path)
    dtype = native_dtype(model.device) if precision == AUTO else getattr(torch, precision)
    return Predictor(model, cfg, dtype, progress)


def _model_folder(name: str | Path) -> Path | None:
    """Return the model folder that a name stands for, downloaded if necessary; None for a file."""
    path = find_file(name)
    if not os.path.exists(path) and is_hub_id(str(name)):
        return download_model(str(name))
    return path if os.path.isdir(path) else None


def _checked(device: str | torch.device) -> torch.device:
    """Check that a device exists."""
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device {device} cannot be used; choose cpu ({reason(error)})") from error
    return device
