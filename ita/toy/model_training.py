"""Training of the toy model that is installed with the package."""

from pathlib import Path
from typing import Any

from ita.engine.checkpoint import export_weights, read_checkpoint
from ita.errors import UserError
from ita.files import write_atomically
from ita.predictor.model_folder import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME
from ita.toy.commands import read_results, run_training
from ita.toy.dataset import make_toy_dataset

CONFIG = "configs/toy/ita_tiny_long.yaml"
TEST_SETS = {
    "toy_val": "validation scenes",
    "toy_test_all": "test scenes",
    "toy_test_synonyms": "test scenes, classes named by synonyms",
    "toy_test_distractors": "test scenes, with the names of 42 further classes",
}


def train_toy_model(folder: Path, work: Path, scenes: int, iterations: int) -> str:
    """Train the model of ``folder/config.yaml`` and write its weights and model card.

    An interrupted training resumes from the last checkpoint in ``work``.

    Args:
        folder: model folder with ``config.yaml``.
        work: folder for scenes, checkpoints and logs.
        scenes: number of training scenes.
        iterations: number of training iterations.

    Returns:
        The results table of the card.

    Raises:
        UserError: the config is missing, training failed, or a folder cannot be written.
    """
    config = folder / CONFIG_NAME
    if not config.is_file():
        raise UserError(f"{config} does not exist; copy the one in ita/toy/model")
    run = work / "run"
    make_toy_dataset(work / "datasets" / "toy", train=scenes)
    run_training(
        str(config),
        work / "datasets",
        "--resume",
        *("OUTPUT_DIR", str(run)),
        *("DATASETS.TEST", str(tuple(TEST_SETS))),
        *("SOLVER.MAX_ITER", str(iterations)),
        *("SOLVER.STEPS", f"({iterations * 4 // 5},)"),
    )
    checkpoint = read_checkpoint(run / "model_final.pth")
    export_weights(checkpoint, folder / WEIGHTS_NAME)
    table = _table(read_results(run))
    card = _CARD.format(
        table=table,
        scenes=f"{scenes:,}",
        iterations=f"{iterations:,}",
        parameters=f"{sum(t.numel() for t in checkpoint['model'].values()):,}",
        megabytes=f"{(folder / WEIGHTS_NAME).stat().st_size / 1e6:.1f}",
    )
    write_atomically(folder / CARD_NAME, card.encode())
    return table


def _table(results: dict[str, Any]) -> str:
    rows = ["| images and classes | mIoU | seen | unseen | PQ |", "| --- | --: | --: | --: | --: |"]
    for name, title in TEST_SETS.items():
        semantic, panoptic = results[name]["sem_seg"], results[name]["panoptic_seg"]
        values = [semantic[key] for key in ("mIoU", "mIoU_seen", "mIoU_unseen")]
        cells = ["–" if v is None else f"{v:.1f}" for v in (*values, panoptic["PQ"])]
        rows.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(rows)


_CARD = """\
# The toy model

A small ITA, the default model of `ita.load()` and `ita segment`. It is trained on drawn scenes of
the toy world and does not work on real images: its objects are named "striped triangle" or "red
ring", its backgrounds "grass" or "brick wall".

- `config.yaml`: `{config}` with the classifier weights (α, β) that were
  best on validation scenes.
- `model.safetensors`: {parameters} trainable parameters in float32, {megabytes} MB, and the
  training class list. The frozen CLIP is the one in `ita/toy/clip`.

## Results

In percent; unseen classes are word pairs held out from training.

{table}

## Training

    ita toy train-model

{scenes} training scenes, {iterations} iterations of 4 images on the CPU.
""".replace("{config}", CONFIG)
