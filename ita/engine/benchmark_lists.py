"""Published class lists: their files, and comparison with the lists in use."""

import hashlib
import json
from pathlib import Path, PurePath

from ita.classes import ClassList, parse_class_list, read_class_list, shipped_class_lists
from ita.errors import UserError
from ita.files import write_atomically
from ita.reports.published import PublishedResult, PublishedSet

_HASH_DIGITS = 12


def list_file(name: str, folder: str) -> str:
    """Path of a published class list, a packaged list, or "" for the data set's own list.

    Args:
        name: name of the published list; "" if there is none.
        folder: folder of published lists; "" if it is not at hand.

    Raises:
        UserError: the folder lacks the list.
    """
    if name in shipped_class_lists():
        return name
    if not name or not folder:
        return ""
    path = Path(folder).expanduser() / name
    if not path.is_file():
        raise UserError(f"--class-lists {folder} has no file {name}")
    return str(path)


def evaluation_list_file(
    published: PublishedResult, data_set: PublishedSet, folder: str, output: Path
) -> str:
    """Path like :func:`list_file`; a list derived from another one is written to ``output``."""
    is_derived = published.class_list == data_set.class_list and data_set.made_from
    is_there = (Path(folder).expanduser() / data_set.class_list).is_file()
    if not folder or not is_derived or is_there:
        return list_file(published.class_list, folder)
    classes = parse_class_list(list_file(data_set.made_from, folder)).items()
    lines = [f"{i}:{','.join(names)}\n" for i, names in classes if i not in data_set.dropped_ids]
    path = output / "class_lists" / data_set.class_list
    write_atomically(path, "".join(lines).encode())
    return str(path)


def difference(class_list: ClassList, published: str) -> str:
    """Describe how a class list differs from the published one, for readers.

    A packaged list is compared by its classes. Any other is compared by its file name, since its
    content is not known here; :func:`short_hash` lets readers compare it.

    Args:
        class_list: the list in use.
        published: name of the published list; "" accepts any.

    Returns:
        "" if it is the published list.
    """
    if not published:
        return ""
    same_name = PurePath(class_list.name).name == published
    if published in shipped_class_lists():
        same_classes = class_list.classes == read_class_list(published).classes
    else:
        same_classes = same_name
    if same_classes:
        return ""
    # Without names, so that equal reasons of several data sets are given once.
    return "has other classes than the published one" if same_name else "is not the published one"


def short_hash(class_list: ClassList) -> str:
    """First digits of the SHA-256 of all names, in the order of the classes."""
    names = json.dumps(class_list.classes, ensure_ascii=False)
    return hashlib.sha256(names.encode()).hexdigest()[:_HASH_DIGITS]
