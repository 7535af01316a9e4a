"""A row of the table, and its check."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.world import Outcome, World


@dataclass(frozen=True)
class Fault:
    """A row of the table.

    Attributes:
        done: what is done, in words.
        seen: what the output must contain, with any white space between the words.
        code: the exit code.
        left: what is left on disk; compared with :attr:`Outcome.left`.
        act: does it.
        slow: takes more than some seconds.
        any_number_of_lines: errors may be on more lines than one, as in a list of bad files.
    """

    done: str
    seen: str
    code: int
    left: str
    act: Callable[[World], Outcome]
    slow: bool = False
    any_number_of_lines: bool = False

    def problems(self, world: World) -> list[str]:
        """Do it; return what is not as declared, in words."""
        try:
            outcome = self.act(world)
        except AssertionError as error:  # a command hangs, or ends too early
            return [str(error)]
        output = " ".join((outcome.output + outcome.errors).split())
        found = []
        if outcome.code != self.code:
            found.append(f"exit code {outcome.code}, not {self.code}")
        if " ".join(self.seen.split()) not in output:
            found.append(f"not seen: {self.seen}")
        if "Traceback" in output:
            found.append("a traceback")
        lines = outcome.errors.strip().splitlines()
        if outcome.code == 1 and not self.any_number_of_lines and len(lines) != 1:
            found.append(f"{len(lines)} lines on stderr, not one")
        if outcome.left != self.left:
            found.append(f"left on disk: {outcome.left}; not: {self.left}")
        return [*found, output[-3000:]] if found else []


def fault(
    *,
    done: str,
    seen: str,
    code: int,
    left: str,
    slow: bool = False,
    any_number_of_lines: bool = False,
) -> Callable[[Callable[[World], Outcome]], Fault]:
    """Declare a row: see :class:`Fault`."""
    return lambda act: Fault(done, seen, code, left, act, slow, any_number_of_lines)
