"""Measure which share of an image's classes are among its K most likely names, for every K.

    python tools/hit_rate.py --config-file configs/toy/ita_tiny.yaml --max-names 32
    python tools/hit_rate.py --config-file configs/toy/ita_tiny.yaml --plot hit_rate.svg
    python tools/hit_rate.py DATASETS.TEST "('openvocab_ade20k_panoptic_val',)"

Compares sources of the image embedding (MODEL.ITA.IMAGE_EMBEDDING) on the config's first test set.
Only CLIP's weights matter, so that no training is needed. A class counts once per image that shows
it.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ita.cli.types import positive_int
from ita.errors import UserError

CONFIG = "configs/coco/semantic-segmentation/ita/ita_convnext_large_eval_ade20k.yaml"
EMBEDDINGS = ("shared", "clip_preprocess", "places")
SHOWN = (1, 2, 4, 8, 16, 20, 32)
# Image embedding -> group -> percentage for K = 1, 2, ...
Rates = Mapping[str, Mapping[str, Sequence[float]]]


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", default=CONFIG, metavar="FILE", help="default: %(default)s")
    add(
        "--embeddings",
        nargs="+",
        choices=EMBEDDINGS,
        default=["shared", "places"],
        help="sources of the image embedding (default: shared places)",
    )
    add("--max-names", type=positive_int, default=32, metavar="N", help="largest K (default: 32)")
    add("--plot", type=Path, metavar="FILE", help="also draw the rates as SVG")
    add("keys", nargs="*", metavar="KEY VALUE", help="config keys")
    return parser.parse_intermixed_args(words)


def measure(config_file: str, keys: Sequence[str], embeddings: Sequence[str], most: int) -> Rates:
    """Rank the names for every image of the first test set.

    Args:
        config_file: config with CLIP, data set and class list.
        keys: ``KEY VALUE ...``, applied to the config.
        embeddings: values of ``MODEL.ITA.IMAGE_EMBEDDING``.
        most: the largest K.

    Raises:
        UserError: the config, CLIP or the data set cannot be used.
    """
    import torch
    from detectron2.data import MetadataCatalog

    from ita.config import load_config
    from ita.data.registration import register_all
    from ita.engine.evaluate import load_test_sets
    from ita.engine.setup import choose_device
    from ita.evaluation.truth import GroundTruth
    from ita.meta_arch import build_model
    from ita.modeling.image_towers import DENSE
    from ita.modeling.vocabulary import TextEncoder
    from ita.progress import show_progress

    cfg = load_config(config_file, [*keys, "MODEL.ITA.NUM_DOMINANT", str(most)])
    choose_device(cfg)
    register_all(cfg.DATASETS.CUSTOM)
    cfg.DATASETS.TEST = cfg.DATASETS.TEST[:1]
    test_set = load_test_sets(cfg)[0]
    model = build_model(cfg).eval()
    vocabulary = model.make_vocabulary(test_set.class_list, TextEncoder(model.backbone))
    candidates, dominant = vocabulary.candidates, model.dominant
    if candidates is None or dominant is None:
        raise ValueError("a model with dominant categories was asked for")
    truth = GroundTruth(MetadataCatalog.get(test_set.name), test_set.class_list)
    # Of each class shown in an image: whether it is seen, and its rank by each embedding.
    seen: list[bool] = []
    ranks: dict[str, list[int]] = {name: [] for name in embeddings}
    bar = show_progress(f"ranking names for {test_set.name}", test_set.loader.num_images, "images")
    with torch.no_grad(), bar as advance:
        for records in test_set.loader:
            features = model.backbone(model.normalize_images(records).tensor)
            shown = np.unique(truth.classes(records[0]))
            shown = shown[shown >= 0]
            seen += vocabulary.seen.cpu()[torch.from_numpy(shown).long()].tolist()
            for name in embeddings:
                model.image_embedding = name
                index = dominant.rank(model.embed_images(records, features[DENSE]), candidates)
                names = candidates.class_index[index[0]].tolist()
                ranks[name] += [names.index(c) if c in names else most for c in shown.tolist()]
            advance(1)
    return {
        name: _rates(np.array(of_name), np.array(seen), most) for name, of_name in ranks.items()
    }


def _rates(ranks: np.ndarray, seen: np.ndarray, most: int) -> dict[str, list[float]]:
    """Percentages for K = 1 to ``most``; NaN for a group without classes."""
    groups = {"all": np.ones_like(seen), "seen": seen, "unseen": ~seen}
    return {
        group: [
            100 * float((ranks[members] < k).mean()) if members.any() else float("nan")
            for k in range(1, most + 1)
        ]
        for group, members in groups.items()
    }


def table(rates: Rates) -> str:
    """Format the rates for some K as Markdown."""
    most = len(next(iter(rates.values()))["all"])
    counts = [k for k in SHOWN if k <= most]
    header = ["image embedding", "classes", *(f"K = {k}" for k in counts)]
    lines = [header, [":--", ":--", *("--:" for _ in counts)]]
    for name, groups in rates.items():
        for group, values in groups.items():
            lines.append([name, group, *(f"{values[k - 1]:.1f}" for k in counts)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(rates: Rates, path: Path) -> None:
    """Draw the rates of seen and unseen classes over K as SVG."""
    import io

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from ita.files import write_atomically

    colors = dict(zip(EMBEDDINGS, ("#0072B2", "#009E73", "#D55E00"), strict=True))
    style = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    with pyplot.rc_context({**style, "svg.hashsalt": "ita", "svg.fonttype": "path"}):
        figure, axes = pyplot.subplots(1, 2, sharey=True, figsize=(8, 3), layout="constrained")
        for panel, group in zip(axes, ("seen", "unseen"), strict=True):
            for name, groups in rates.items():
                counts = range(1, len(groups[group]) + 1)
                panel.plot(counts, groups[group], color=colors[name], label=name)
            panel.set_title(f"{group} classes")
            panel.set_xlabel("K, number of names")
            panel.grid(color="0.9")
            panel.set_ylim(0, 102)
        axes[0].set_ylabel("hit rate in %")
        axes[0].legend(frameon=False, loc="lower right")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    write_atomically(path, buffer.getvalue())


def main() -> int:
    """Measure, print the table and draw the plot."""
    arguments = parse_arguments(sys.argv[1:])
    try:
        rates = measure(
            arguments.config_file, arguments.keys, arguments.embeddings, arguments.max_names
        )
        sys.stdout.write(table(rates) + "\n")
        if arguments.plot:
            draw(rates, arguments.plot)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
