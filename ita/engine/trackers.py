"""Trackers of experiments, which get the scalars of a training: Weights & Biases, trackio."""

import logging
import os
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.utils.events import EventWriter, get_event_storage

from ita.errors import UserError
from ita.extras import optional_module
from ita.files import write_atomically
from ita.modeling.storage import reason

logger = logging.getLogger(__name__)

WANDB, TRACKIO = "wandb", "trackio"
# File of OUTPUT_DIR with the tracker's id of the run, by which a resumed run continues it.
ID_FILE = "tracker_id.txt"
# Seconds that wandb waits for its server at the start, and for the end of uploads.
START_SECONDS, FINISH_SECONDS = 30.0, 300.0


class TrackerWriter(EventWriter):
    """Sends the scalars of a run to a tracker (``SOLVER.TRACKER``).

    A tracker that fails, for example without network, is left out with one warning: training does
    not depend on it.

    Args:
        name: ``wandb`` or ``trackio``.
        folder: the run's folder, which names the run.
        config: config of the run, by dotted key.
        resumed: whether the run continues one in the same folder.

    Raises:
        UserError: the tracker's library is not installed, or the folder cannot be written.
    """

    def __init__(
        self, name: str, folder: Path, config: Mapping[str, Any], *, resumed: bool = False
    ) -> None:
        self._name, self._last = name, -1
        self._library = require_tracker(name)
        self._run: Any = None
        run_id = _run_id(folder, resumed=resumed)
        start = self._start_wandb if name == WANDB else self._start_trackio
        self._run = self._attempt(lambda: start(folder, run_id, dict(config)))

    def write(self) -> None:
        """Send the scalars that are new since the last call, smoothed as for TensorBoard."""
        scalars = get_event_storage().latest_with_smoothing_hint()
        rows: dict[int, dict[str, float]] = {}
        for key, (value, iteration) in scalars.items():
            if iteration > self._last:
                rows.setdefault(iteration, {})[key] = value
        for iteration, row in sorted(rows.items()):
            self._attempt(partial(self._send, row, iteration))
            self._last = iteration

    def close(self) -> None:
        """End the run."""
        self._attempt(lambda: self._run.finish())
        self._run = None

    def _send(self, row: Mapping[str, float], iteration: int) -> None:
        self._run.log(dict(row), step=iteration)

    def _attempt(self, action: Callable[[], Any]) -> Any:
        """Return the result of an action; after a failure, do nothing any more."""
        if self._library is None:
            return None
        try:
            return action()
        except Exception as error:  # trackers raise almost any exception
            self._library = None
            logger.warning(
                "%s (SOLVER.TRACKER) failed and is left out; log, metrics.json and TensorBoard "
                "events are complete (%s)",
                self._name,
                reason(error),
            )

    def _start_wandb(self, folder: Path, run_id: str, config: dict[str, Any]) -> Any:
        settings = self._library.Settings(
            # It would put itself between the progress bars and the terminal.
            console="off",
            init_timeout=START_SECONDS,
            login_timeout=START_SECONDS,
            finish_timeout=FINISH_SECONDS,
        )
        return self._library.init(
            project=_project(WANDB),
            name=folder.resolve().name,
            id=run_id,
            resume="allow",
            dir=str(folder),
            config=config,
            settings=settings,
        )

    def _start_trackio(self, folder: Path, run_id: str, config: dict[str, Any]) -> Any:
        # Runs have no id besides their name.
        name = f"{folder.resolve().name}-{run_id}"
        return self._library.init(
            project=_project(TRACKIO), name=name, resume="allow", config=config, embed=False
        )


def require_tracker(name: str) -> Any:
    """Import the library of a tracker; None for "", no tracker.

    Raises:
        UserError: it is not installed.
    """
    return optional_module(name, f"SOLVER.TRACKER {name}", extra=name) if name else None


def _project(name: str) -> str:
    return os.environ.get(f"{name.upper()}_PROJECT") or "ita"


def _run_id(folder: Path, *, resumed: bool) -> str:
    """Return the id of the run in a folder, a new one unless the run is resumed."""
    path = folder / ID_FILE
    try:
        stored = path.read_text(encoding="utf-8").strip() if resumed and path.exists() else ""
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; remove it to start a new run") from error
    if not stored:
        stored = secrets.token_hex(4)
        write_atomically(path, f"{stored}\n".encode())
    return stored
