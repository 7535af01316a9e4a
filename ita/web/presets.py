"""Class lists that the page offers: those of the toy world and of the benchmarks."""

from ita.classes import read_class_list, shipped_class_lists
from ita.errors import UserError
from ita.toy.dataset import CLASS_LISTS

TOY = "toy"


def preset_names() -> list[str]:
    """Names of the class lists."""
    return [TOY, *shipped_class_lists()]


def preset_text(name: str) -> str:
    """Return a class list as people type it: one class per line, commas between synonyms.

    Args:
        name: one of :func:`preset_names`.

    Raises:
        UserError: it is another one, such as the path of a file.
    """
    if name not in preset_names():
        raise UserError(f"no class list {name}; choose {', '.join(preset_names())}")
    class_list = read_class_list(CLASS_LISTS / f"{TOY}.txt" if name == TOY else name)
    return "\n".join(", ".join(synonyms) for synonyms in class_list.classes)
