"""The toy world: a small open-vocabulary data set of drawn scenes.

ita toy demo                  train, resume and evaluate a small ITA, minutes on two CPU cores
ita toy make datasets/toy     write the scenes
ita toy train-clip            train and evaluate the CLIP of the toy world
ita toy train-model           train and evaluate the model that ita.load() returns
"""

import argparse
import inspect
import sys
from pathlib import Path

from ita.cli.types import positive_int
from ita.files import PACKAGE

TOY = PACKAGE / "toy"


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show option defaults, and keep the line breaks of descriptions."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, add, run in (
        ("demo", _add_demo, run_demo),
        ("make", _add_make, run_make),
        ("train-clip", _add_train_clip, run_train_clip),
        ("train-model", _add_train_model, run_train_model),
    ):
        text = inspect.cleandoc(add.__doc__ or "")
        action = actions.add_parser(
            name, help=text.splitlines()[0], description=text, formatter_class=_Help
        )
        add(action)
        action.set_defaults(run=run)


def _add_demo(parser: argparse.ArgumentParser) -> None:
    """Train, stop, resume and evaluate a small ITA: minutes on two CPU cores.

    Draws scenes of the toy world, trains ITA on the seen classes and evaluates it with the names of
    all classes. Scenes, checkpoints, results and pictures are written to the output folder. Every
    command is printed, so that it can be repeated manually.
    """
    add = parser.add_argument
    add("--output", type=Path, default=Path("output/demo"), help="output folder")
    add("--iterations", type=positive_int, default=1200, help="total number of training steps")
    add("--test", type=positive_int, default=100, help="number of test scenes")


def run_demo(options: argparse.Namespace) -> int:
    """Run the demo and print its results."""
    from ita.toy.demo import demo

    sys.stdout.write(demo(options.output.resolve(), options.iterations, options.test) + "\n")
    return 0


def _add_make(parser: argparse.ArgumentParser) -> None:
    """Write the scenes as a data set in COCO panoptic's format.

    Objects are named by two words, such as "striped triangle". The training scenes contain every
    word, but not every pair: half of the objects in val, half in test_all and all in test_unseen
    have pairs that never occur in training. The unseen pairs of val and of the test splits differ.

    In the folder toy of DETECTRON2_DATASETS, the scenes are the data sets toy_train, toy_val,
    toy_test_seen, toy_test_unseen and toy_test_all; toy_test_synonyms (other words) and
    toy_test_distractors (additional classes that occur in no scene) use the scenes of toy_test_all.
    """
    add = parser.add_argument
    add("folder", type=Path, help="output folder, for example datasets/toy")
    add("--seed", type=int, default=0, help="random seed of the scenes")
    add("--train", type=int, default=600, help="number of training scenes")
    add("--val", type=int, default=200, help="number of validation scenes")
    add("--test", type=int, default=200, help="number of scenes of each test split")
    add("--size", type=int, default=144, help="longer image side in pixels")


def run_make(options: argparse.Namespace) -> int:
    """Write the data set."""
    from ita.toy.dataset import make_toy_dataset

    folder = make_toy_dataset(
        options.folder,
        seed=options.seed,
        train=options.train,
        val=options.val,
        test=options.test,
        size=options.size,
    )
    sys.stdout.write(f"the toy data set is in {folder}\n")
    return 0


def _add_train_clip(parser: argparse.ArgumentParser) -> None:
    """Train the toy world's CLIP on generated image-caption pairs, and evaluate it.

    The output folder must contain the model's open_clip_config.json. Weights, training.json and a
    model card, README.md, with the zero-shot accuracy are written to it.
    """
    add = parser.add_argument
    add("--output", type=Path, default=TOY / "clip", help="CLIP folder")
    add("--seed", type=int, default=0, help="random seed of the weights and scenes")
    add("--steps", type=positive_int, default=7500, help="number of optimizer steps")
    add("--small-steps", type=int, default=3500, help="first steps, at half the image side")
    add("--portraits", type=positive_int, default=120, help="single-class scenes per object class")
    add("--scenes", type=positive_int, default=4000, help="scenes with several objects")
    add(
        "--views-per-batch",
        type=positive_int,
        default=64,
        help="views of single classes; with --whole-scenes, scenes of single objects",
    )
    add("--scenes-per-batch", type=positive_int, default=24, help="scenes with several objects")
    add("--lr", type=float, default=2e-3, help="maximum learning rate")
    add(
        "--whole-scenes",
        action="store_true",
        help="train on whole scenes, whose captions name several classes, instead of views of one",
    )
    add("--device", choices=("cpu", "cuda"), default="cpu", help="training device")
    add("--workers", type=int, choices=(0, 1), default=1, help="processes that draw views")
    add("--views", type=positive_int, default=8, help="views per class in the evaluation")
    add("--held-out-scenes", type=positive_int, default=200, help="scenes in the evaluation")
    add("--measure-only", action="store_true", help="only evaluate the existing weights")


def run_train_clip(options: argparse.Namespace) -> int:
    """Train and evaluate, or only evaluate, and print the tables."""
    import logging

    from ita.toy.clip_training.card import report
    from ita.toy.clip_training.command import measure_and_describe, recipe_of, train

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    recipe = recipe_of(vars(options))
    if not options.measure_only:
        train(options.output, recipe, options.device, options.workers)
    measured = measure_and_describe(
        options.output, options.views, options.held_out_scenes, options.device
    )
    sys.stdout.write(report(measured) + "\n")
    return 0


def _add_train_model(parser: argparse.ArgumentParser) -> None:
    """Train and evaluate the toy model of the package: 15 minutes on a CPU core.

    The output folder must contain the model's config.yaml. The weights and a model card, README.md,
    with the results are written to it. An interrupted training resumes from the checkpoints in the
    work folder.
    """
    add = parser.add_argument
    add("--output", type=Path, default=TOY / "model", help="model folder")
    add("--work", type=Path, default=Path("output/toy_model"), help="folder of scenes and logs")
    add("--scenes", type=positive_int, default=3000, help="number of training scenes")
    add("--iterations", type=positive_int, default=4800, help="number of training steps")


def run_train_model(options: argparse.Namespace) -> int:
    """Train the model and print its results."""
    from ita.toy.model_training import train_toy_model

    table = train_toy_model(
        options.output.resolve(), options.work.resolve(), options.scenes, options.iterations
    )
    sys.stdout.write(f"{table}\nThe model is in {options.output}\n")
    return 0
