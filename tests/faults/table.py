"""All rows, and the table of them."""

import importlib
import pkgutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tabulate import tabulate

from ita.toy.dataset import make_toy_dataset
from tests.faults.fault import Fault
from tests.faults.world import World

PREFIX = "rows_"


def rows() -> Iterator[tuple[str, str, Fault]]:
    """Yield theme, name and row of every fault, in the order of the files."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name.startswith(PREFIX):
            contents = vars(importlib.import_module(f"tests.faults.{module.name}"))
            for name, value in contents.items():
                if isinstance(value, Fault):
                    yield module.name.removeprefix(PREFIX), name, value


def make_scenes(root: Path) -> None:
    """Draw the scenes of all worlds."""
    make_toy_dataset(root / "toy", train=6, val=3, test=1, size=64)


def try_all(chosen: Iterable[tuple[str, str, Fault]]) -> Iterator[tuple[str, Fault, list[str]]]:
    """Try rows one after another; yield theme, row and what is not as declared."""
    with tempfile.TemporaryDirectory() as folder:
        scenes = Path(folder, "scenes")
        make_scenes(scenes)
        for number, (theme, _, row) in enumerate(chosen):
            world = Path(folder, str(number))
            world.mkdir()
            yield theme, row, row.problems(World(world, scenes))


def format_results(results: Iterable[tuple[str, Fault, list[str]]], seconds: float) -> str:
    """Format the table in Markdown, with the counts and the seconds that it took below it."""
    lines, lost = [], []
    for theme, row, problems in results:
        verdict = "lost" if problems else "survived"
        lines.append((theme, row.done, row.seen, row.code, row.left, verdict))
        if problems:
            lost.append(f"{row.done}: {'; '.join(problems)}")
    headers = ("theme", "done", "seen", "exit code", "left on disk", "")
    table = tabulate(lines, headers, tablefmt="github", disable_numparse=True)
    counts = f"{len(lines)} tried, {len(lines) - len(lost)} survived, {len(lost)} lost"
    return "\n".join([table, "", f"{counts} in {seconds:.0f} s", *lost, ""])
