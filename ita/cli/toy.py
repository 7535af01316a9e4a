"""The toy world: a small open-vocabulary data set of drawn scenes.

ita toy demo                  train, resume and evaluate a small ITA, minutes on two CPU cores
ita toy make datasets/toy     write the scenes
ita toy train-clip            train the CLIP that knows its words, and measure it
ita toy train-model           train the model that ita.load() returns, and measure it
"""

import argparse
import sys
from pathlib import Path

from ita.files import PACKAGE

TOY = PACKAGE / "toy"


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults of options, and descriptions with their line breaks."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, add, run in (
        ("demo", _add_demo, run_demo),
        ("make", _add_make, run_make),
        ("train-clip", _add_train_clip, run_train_clip),
        ("train-model", _add_train_model, run_train_model),
    ):
        text = add.__doc__ or ""
        action = actions.add_parser(
            name, help=text.splitlines()[0], description=text, formatter_class=_Help
        )
        add(action)
        action.set_defaults(run=run)


def _add_demo(parser: argparse.ArgumentParser) -> None:
    """Train, stop, resume and evaluate a small ITA: minutes on two CPU cores.

    Scenes of the toy world are drawn; ITA trains on the seen ones of its classes and is evaluated
    with the names of all. The output folder receives scenes, checkpoints, results and pictures.
    Every command is printed, so that it can be repeated by hand.
    """
    add = parser.add_argument
    add("--output", type=Path, default=Path("output/demo"), help="folder to fill")
    add("--iterations", type=_at_least_one, default=1200, help="training steps in all")
    add("--test", type=_at_least_one, default=100, help="test scenes")


def run_demo(options: argparse.Namespace) -> int:
    """Run the demo and print its results."""
    from ita.toy.demo import demo

    sys.stdout.write(demo(options.output.resolve(), options.iterations, options.test) + "\n")
    return 0


def _add_make(parser: argparse.ArgumentParser) -> None:
    """Write the scenes as a data set in COCO panoptic's format.

    Objects are named by two words, such as "striped triangle". Training shows every word, but not
    every pair: half of the objects of val, half of those of test_all and all of those of
    test_unseen are of pairs that training never shows, others in val than in the tests.

    In the folder toy of DETECTRON2_DATASETS, the scenes are the data sets toy_train, toy_val,
    toy_test_seen, toy_test_unseen and toy_test_all; toy_test_synonyms (other words) and
    toy_test_distractors (further classes, which no scene shows) have the scenes of the last.
    """
    add = parser.add_argument
    add("folder", type=Path, help="folder to make, for example datasets/toy")
    add("--seed", type=int, default=0, help="another seed gives other scenes")
    add("--train", type=int, default=600, help="number of training scenes")
    add("--val", type=int, default=200, help="number of validation scenes")
    add("--test", type=int, default=200, help="number of scenes of each test split")
    add("--size", type=int, default=144, help="longer side of an image, in pixels")


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
    """Train the toy world's CLIP on generated image-caption pairs, and measure it.

    The output folder holds the model's open_clip_config.json and receives weights, training.json
    and a card, README.md, with the zero-shot accuracy.
    """
    add = parser.add_argument
    add("--output", type=Path, default=TOY / "clip", help="folder of the CLIP")
    add("--seed", type=int, default=0, help="another seed gives other weights")
    add("--steps", type=_at_least_one, default=7500, help="optimizer steps")
    add("--small-steps", type=int, default=3500, help="first steps, at half the image side")
    add("--portraits", type=_at_least_one, default=120, help="scenes of each object class alone")
    add("--scenes", type=_at_least_one, default=4000, help="scenes of several objects")
    add("--views-per-batch", type=_at_least_one, default=64, help="views of single objects")
    add("--scenes-per-batch", type=_at_least_one, default=24, help="scenes of several objects")
    add("--lr", type=float, default=2e-3, help="largest learning rate")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where to train")
    add("--workers", type=int, choices=(0, 1), default=1, help="processes that draw views")
    add("--views", type=_at_least_one, default=8, help="views of each class to measure")
    add("--held-out-scenes", type=_at_least_one, default=200, help="scenes to measure")
    add("--measure-only", action="store_true", help="measure the weights that are there")


def run_train_clip(options: argparse.Namespace) -> int:
    """Train and measure, or measure alone; print the tables."""
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
    """Train the toy model of the package, and measure it: 15 minutes on a CPU core.

    The output folder holds the model's config.yaml and receives the weights and a card, README.md,
    with the results. An interrupted training resumes from the checkpoints in the work folder.
    """
    add = parser.add_argument
    add("--output", type=Path, default=TOY / "model", help="folder of the model")
    add("--work", type=Path, default=Path("output/toy_model"), help="folder of scenes and logs")
    add("--scenes", type=_at_least_one, default=3000, help="training scenes")
    add("--iterations", type=_at_least_one, default=4800, help="training steps")


def run_train_model(options: argparse.Namespace) -> int:
    """Train the model and print its results."""
    from ita.toy.model_training import Schedule, train_toy_model

    schedule = Schedule(options.scenes, options.iterations)
    table = train_toy_model(options.output.resolve(), options.work.resolve(), schedule)
    sys.stdout.write(f"{table}\nThe model is in {options.output}\n")
    return 0


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number
