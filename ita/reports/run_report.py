"""The report of an evaluation: report.html beside results.json."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from ita.evaluation.semantic import IOU_PREFIX
from ita.files import write_atomically
from ita.reports.curves import curves_so_far, draw_curves
from ita.reports.evaluated_pictures import BEST, FIRST, WORST
from ita.reports.pages import image_uri, render
from ita.reports.result_files import RESULTS_FILE, read_results
from ita.reports.tables import COLUMNS, SUBSETS

REPORT_FILE = "report.html"
# Width in pixels of the embedded pictures.
PICTURE_WIDTH = 1000
# Up to this number of classes, the list of all classes is open.
MAX_OPEN_CLASSES = 60
# Choices of images in the order of the report.
GALLERIES = {WORST: "Worst images", BEST: "Best images", FIRST: "First images"}


@dataclass(frozen=True)
class ClassResult:
    """IoU of a class in percent; its label id, name, and whether it is seen in training."""

    label_id: str
    name: str
    iou: float
    seen: bool


@dataclass(frozen=True)
class Gallery:
    """Pictures under one title: caption and data URI of each."""

    title: str
    pictures: list[tuple[str, str]]


@dataclass(frozen=True)
class SetReport:
    """What the report shows of a data set.

    Attributes:
        name: data set.
        info: the entry "info" of its results.
        subsets: titles and numbers of classes of the columns of ``metrics``.
        metrics: title and a value per column; None without one.
        classes: classes that occur, by falling IoU.
        dominant: facts about the dominant categories; "" without them.
        confusions: see :func:`ita.evaluation.semantic.most_confused`.
        galleries: choices of images, with their pictures.
    """

    name: str
    info: Mapping[str, Any]
    subsets: list[tuple[str, int | None]]
    metrics: list[tuple[str, list[float | None]]]
    classes: list[ClassResult]
    dominant: str
    confusions: Sequence[Mapping[str, Any]]
    galleries: list[Gallery]


def write_report(folder: Path, *, config: str = "") -> Path:
    """Write ``report.html`` from the results in a run's folder, atomically.

    Args:
        folder: folder with results.json, the pictures that it names and, of a training run,
            metrics.json.
        config: the config of the run, as YAML.

    Returns:
        Path of the report.

    Raises:
        UserError: the results cannot be read, or the report cannot be written.
    """
    content = read_results(folder / RESULTS_FILE)
    sets = []
    for name, result in content["results"].items():
        pictures = folder / "inference" / name / "pictures"
        sets.append(_describe_set(name, result, pictures))
    page = render(
        "report.html.jinja",
        title=f"Evaluation: {folder.resolve().name}",
        facts=_facts(content),
        sets=sets,
        max_open=MAX_OPEN_CLASSES,
        curves=Markup(draw_curves(curves_so_far(folder, content))),  # noqa: S704  likewise
        config=config,
    )
    path = folder / REPORT_FILE
    write_atomically(path, page.encode())
    return path


def _describe_set(name: str, result: Mapping[str, Any], pictures: Path) -> SetReport:
    info, semantic = result.get("info", {}), result.get("sem_seg", {})
    suffixes = [s for *_, s in SUBSETS if not s or _has_suffix(result, s)]
    subsets = [
        (title, count(info) if "classes_seen" in info else None)
        for title, count, suffix in SUBSETS
        if suffix in suffixes
    ]
    metrics = [
        (title, [result[task].get(metric + suffix) for suffix in suffixes])
        for title, task, metric in COLUMNS
        if result.get(task, {}).get(metric) is not None
    ]
    return SetReport(
        name=name,
        info=info,
        subsets=subsets,
        metrics=metrics,
        classes=_classes(info, semantic),
        dominant=_describe_dominant(result.get("dominant", {})),
        confusions=result.get("confusions", {}).get("pairs", ()),
        galleries=list(_galleries(result.get("pictures", {}), pictures)),
    )


def _galleries(choices: Mapping[str, Any], folder: Path) -> Iterator[Gallery]:
    """Yield the pictures of the results that still exist, those with most to learn from first."""
    for choice, title in GALLERIES.items():
        pictures = []
        for entry in choices.get(choice, ()):
            path = folder / Path(entry["file"]).name
            if path.is_file():
                score = f": mIoU {entry['score']:.2f}" if "score" in entry else ""
                pictures.append((f"{entry['image']}{score}", data_uri(path)))
        if pictures:
            yield Gallery(title, pictures)


def _classes(info: Mapping[str, Any], semantic: Mapping[str, Any]) -> list[ClassResult]:
    """Classes that occur, by falling IoU; all count as seen if the results do not tell."""
    seen = info.get("seen")
    results = []
    for key, iou in semantic.items():
        if key.startswith(IOU_PREFIX) and iou is not None:
            label = key.removeprefix(IOU_PREFIX)
            label_id, _, name = label.partition(":")
            results.append(ClassResult(label_id, name, iou, seen is None or label in seen))
    return sorted(results, key=lambda result: -result.iou)


def _describe_dominant(metrics: Mapping[str, Any]) -> str:
    texts = {
        "num_dominant": "{:.0f} per image",
        "hit_rate": "{:.2f} % of the classes in an image are among them",
        "text_query_segments": "{:.2f} % of the predicted segments come from their queries",
        "text_query_own_class": "{:.2f} % of these have the class of their query",
    }
    values = {key: metrics.get(key) for key in texts}
    return "; ".join(text.format(values[k]) for k, text in texts.items() if values[k] is not None)


def _has_suffix(result: Mapping[str, Any], suffix: str) -> bool:
    return any(result.get(task, {}).get(metric + suffix) is not None for _, task, metric in COLUMNS)


def _facts(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of what is known of the run."""
    run = content["run"]
    weights = "training started from" if run.get("during_training") else "checkpoint"
    train_list = run.get("train_class_list", "")
    if "train_class_list_from" in run:
        train_list += f", from {run['train_class_list_from']}"
    selected = run.get("selected_by") or {}
    versions = ", ".join(f"{n} {v}" for n, v in run.get("versions", {}).items())
    facts = {
        "date": content["date"],
        weights: run.get("weights") or "none: random weights",
        "iteration": f"{run['iteration']:,}" if "iteration" in run else "",
        "selected by": f"{selected['metric']} = {selected['value']:.2f}" if selected else "",
        "precision": run.get("precision", ""),
        "training class list": train_list,
        "checkpoint's class list": run.get("checkpoint_class_list", ""),
        "command": run.get("command", ""),
        "versions": versions,
    }
    return [(name, value) for name, value in facts.items() if value]


def data_uri(path: Path, width: int = PICTURE_WIDTH) -> str:
    """Embed a picture, reduced to at most ``width`` pixels, as a data URI."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    picture.thumbnail((width, picture.height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=80, optimize=True)
    return image_uri(buffer.getvalue(), "jpeg")
