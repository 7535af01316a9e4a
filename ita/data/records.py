"""Records (Detectron2's data set dicts) from COCO panoptic json or a folder of label maps."""

import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ita.data.image_files import IMAGE_SUFFIXES
from ita.errors import UserError, shown
from ita.structured_files import parse_json

logger = logging.getLogger(__name__)

Record = dict[str, Any]
# Keys of a record whose values are file paths.
FILE_KEYS = ("file_name", "pan_seg_file_name", "sem_seg_file_name")


class MissingFilesError(UserError):
    """Files of a data set are missing."""


def load_panoptic_records(
    panoptic_json: Path,
    image_root: Path,
    panoptic_root: Path,
    class_of_category: Mapping[int, int],
    thing_ids: Sequence[int],
    *,
    image_suffix: str = "",
    panoptic_suffix: str = ".png",
    semantic_root: Path | None = None,
    semantic_suffix: str = ".png",
) -> list[Record]:
    """Load the records of COCO panoptic json.

    Args:
        class_of_category: category id of the json -> contiguous class id.
        thing_ids: contiguous ids of the things.
        image_suffix: end of an image's name after the stem of its panoptic PNG; images are in any
            subfolder of ``image_root``. If empty, the image names are read from the json, which
            otherwise need not have them.
        panoptic_suffix: end of a panoptic PNG's name, after the stem.
        semantic_root: folder of label maps with the same stems, in any subfolder; None disables
            them.
        semantic_suffix: end of a label map's name, after the stem.

    Returns:
        One record per annotated image: ``file_name``, ``image_id``, ``height`` and ``width`` if
        the json has them, ``pan_seg_file_name``, ``segments_info`` (``id``, contiguous
        ``category_id``, ``iscrowd``, ``isthing``) and, with ``semantic_root``,
        ``sem_seg_file_name``.

    Raises:
        UserError: json that is not COCO panoptic or has no images, a category outside the class
            list, or a missing image or label map.
    """
    content = _read_json(panoptic_json)
    try:
        images = {image["id"]: image for image in content["images"]}
        records = [
            _panoptic_record(images.get(annotation["image_id"], {}), annotation, class_of_category)
            for annotation in content["annotations"]
        ]
        if not image_suffix:
            for record in records:
                name = images[record["image_id"]]["file_name"]
                record["file_name"] = os.path.join(image_root, name)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{panoptic_json} is not COCO panoptic json: {error!r}") from error
    except UserError as error:
        raise UserError(f"{panoptic_json}: {error}") from error
    if not records:
        raise UserError(f"{panoptic_json} annotates no images")
    stems = [
        os.path.basename(record["pan_seg_file_name"]).removesuffix(panoptic_suffix)
        for record in records
    ]
    if image_suffix:
        _set_paths(records, "file_name", stems, image_root, image_suffix)
    if semantic_root is not None:
        _set_paths(records, "sem_seg_file_name", stems, semantic_root, semantic_suffix)
    things = frozenset(thing_ids)
    for record in records:
        record["pan_seg_file_name"] = os.path.join(panoptic_root, record["pan_seg_file_name"])
        for segment in record["segments_info"]:
            segment["isthing"] = segment["category_id"] in things
    return records


def _read_json(path: Path) -> Any:
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid json: {error}") from error


def _panoptic_record(
    image: Mapping[str, Any], annotation: Mapping[str, Any], class_of_category: Mapping[int, int]
) -> Record:
    """Record without its image path, and with the PNG name of the json in place of a path."""
    segments = []
    for segment in annotation["segments_info"]:
        category = segment["category_id"]
        if type(segment["id"]) is not int or not 0 <= segment["id"] < 2**24:
            raise TypeError(f"segment id {shown(segment['id'])} is not that of a color")
        if category not in class_of_category:
            raise UserError(
                f"image {annotation['image_id']} has category {category}, outside the class list"
            )
        segments.append(
            {
                "id": segment["id"],
                "category_id": class_of_category[category],
                "iscrowd": segment.get("iscrowd", 0),
            }
        )
    for name in (annotation["file_name"], image.get("file_name", "")):
        if not isinstance(name, str):
            raise TypeError(f"file_name is {shown(name)}")
    return {
        "image_id": annotation["image_id"],
        **{key: image[key] for key in ("height", "width") if key in image},
        "pan_seg_file_name": annotation["file_name"],
        "segments_info": segments,
    }


def _set_paths(
    records: Sequence[Record], key: str, stems: Sequence[str], root: Path, suffix: str
) -> None:
    """Set each record's ``key`` to the path of the file below ``root`` with its stem."""
    files = {os.path.basename(stem): path for stem, path in iterate_files(root, suffix)}
    _check_all_exist(stems, files, str(root), suffix)
    for record, stem in zip(records, stems, strict=True):
        record[key] = files[stem]


def load_semantic_records(
    image_root: Path,
    label_root: Path,
    *,
    image_suffix: str = "",
    label_suffix: str = ".png",
    stems_file: Path | None = None,
) -> list[Record]:
    """Pair the label maps below a folder with the images of the same stems and subfolders.

    Args:
        image_suffix: end of an image's name, after the stem; empty accepts any image suffix.
        label_suffix: end of a label map's name, after the stem.
        stems_file: text file of the stems in the set; None selects all.

    Returns:
        One record per label map, sorted by stem: ``file_name``, ``image_id`` (the stem, with its
        subfolder) and ``sem_seg_file_name``.

    Raises:
        UserError: no label maps, a missing label map, or one without an image.
    """
    labels = dict(iterate_files(label_root, label_suffix))
    if stems_file is not None:
        stems = _read_stems(stems_file)
        _check_all_exist(stems, labels, f"{label_root} (listed in {stems_file})", label_suffix)
        labels = {stem: labels[stem] for stem in stems}
    if not labels:
        raise MissingFilesError(f"no label maps (*{label_suffix}) in {label_root}")
    images = _images_in({os.path.dirname(stem) for stem in labels}, image_root, image_suffix)
    # Label maps and images may share a folder, where a label map is not its own image.
    missing = {stem for stem, label in labels.items() if images.get(stem, label) == label}
    if missing:
        raise MissingFilesError(
            f"{len(missing)} of the {len(labels)} label maps in {label_root} have no image "
            f"({image_suffix or ', '.join(IMAGE_SUFFIXES)}) in {image_root}, the first is "
            f"{os.path.relpath(labels[min(missing)], label_root)}"
        )
    if stems_file is None and len(images) > len(labels):
        logger.warning("%d images of %s have no label map", len(images) - len(labels), image_root)
    return [
        {"file_name": images[stem], "image_id": stem, "sem_seg_file_name": labels[stem]}
        for stem in sorted(labels)
    ]


def iterate_files(root: Path, suffix: str) -> Iterator[tuple[str, str]]:
    """Yield stem (with its subfolder) and path of every file below a folder with this suffix."""
    try:
        entries = list(os.scandir(root))
    except OSError as error:
        raise UserError(f"cannot list {root}: {error.strerror}") from error
    for entry in entries:
        if entry.is_dir():
            for stem, path in iterate_files(Path(entry.path), suffix):
                yield f"{entry.name}/{stem}", path
        elif entry.name.endswith(suffix):
            yield entry.name.removesuffix(suffix), entry.path


def _images_in(folders: Collection[str], root: Path, suffix: str) -> dict[str, str]:
    """Stem with subfolder -> path, for the images directly in these subfolders."""
    images: dict[str, str] = {}
    for folder in folders:
        try:
            names = sorted(os.listdir(root / folder), key=_suffix_rank)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(f"cannot list {root / folder}: {error.strerror}") from error
        for name in names:
            stem, extension = os.path.splitext(name)
            if suffix:
                stem, is_image = name.removesuffix(suffix), name.endswith(suffix)
            else:
                is_image = extension.lower() in IMAGE_SUFFIXES
            if is_image:
                images.setdefault(os.path.join(folder, stem), str(root / folder / name))
    return images


def _suffix_rank(name: str) -> tuple[int, str]:
    suffix = os.path.splitext(name)[1].lower()
    rank = IMAGE_SUFFIXES.index(suffix) if suffix in IMAGE_SUFFIXES else len(IMAGE_SUFFIXES)
    return rank, name


def count_images(records: Sequence[Record], image_root: Path, suffix: str = "") -> int:
    """Count the images in the folders of the records' images, with or without labels."""
    folders = {os.path.dirname(os.path.relpath(r["file_name"], image_root)) for r in records}
    return len(_images_in(folders, image_root, suffix))


def _read_stems(path: Path) -> list[str]:
    try:
        stems = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not stems:
        raise UserError(f"{path} lists no images")
    return stems


def _check_all_exist(stems: Sequence[str], files: Collection[str], where: str, suffix: str) -> None:
    missing = [stem for stem in stems if stem not in files]
    if missing:
        raise MissingFilesError(
            f"{len(missing)} of {len(stems)} files are missing in {where}, the first is "
            f"{missing[0]}{suffix}"
        )


def check_a_handful(records: Sequence[Record]) -> None:
    """Check that the files of three records exist; checking all would take minutes on COCO.

    The three are the first, the middle and the last one.

    Raises:
        MissingFilesError: a missing file (names its path).
    """
    for record in (records[0], records[len(records) // 2], records[-1]):
        for key in FILE_KEYS:
            if key in record and not os.path.isfile(record[key]):
                raise MissingFilesError(f"file not found: {record[key]}")
