"""Training images of each step, fetched one step ahead, and the bad ones among them."""

import logging

from detectron2.utils import comm

from ita.data.loaders import Batch, RecordLoader
from ita.errors import UserError

logger = logging.getLogger(__name__)


class Feed:
    """Micro-batches of a run, fetched one step ahead.

    What a process meets in the images of the next step is thus known to all of them while the
    present step can still be finished and saved, and none waits for one that has failed.

    Attributes:
        bad_images: bad images that others have replaced, over all processes: file -> reason. Equal
            in all processes.
    """

    def __init__(self, loader: RecordLoader, *, parts: int, max_bad_images: int) -> None:
        """Fetch nothing yet.

        Args:
            loader: endless loader of this process's micro-batches.
            parts: micro-batches of a step.
            max_bad_images: maximum number of bad images, over all processes.
        """
        self.bad_images: dict[str, str] = {}
        self._loader, self._batches = loader, iter(loader)
        self._parts, self._max_bad_images = parts, max_bad_images
        self._ahead: list[Batch] = []
        self._failure = ""

    def start(self) -> None:
        """Fetch the first step; called in every process.

        Raises:
            UserError: a process cannot fetch it; in all processes.
        """
        self._fetch()
        if failure := self.exchange_news():
            raise UserError(failure)

    def advance(self, *, last: bool) -> list[Batch]:
        """Return the micro-batches of the next step and, unless it is the last, fetch another."""
        batches, self._ahead = self._ahead, []
        if not last:
            self._fetch()
        return batches

    @property
    def has_news(self) -> bool:
        """Whether this process has met an error or a bad image that the others do not know."""
        return bool(self._failure) or not self._loader.bad_images.keys() <= self.bad_images.keys()

    def exchange_news(self) -> str:
        """Exchange errors and bad images with the other processes, and log the latter.

        Returns:
            Why there is no next step; "" if there is one. Equal in all processes.
        """
        gathered = comm.all_gather((self._failure, self._loader.bad_images))
        new = {file: why for _, bad in gathered for file, why in bad.items()}
        new = {file: why for file, why in new.items() if file not in self.bad_images}
        if comm.is_main_process():
            for reason in new.values():
                logger.warning("bad image, another takes its place: %s", reason)
        self.bad_images |= new
        if len(self.bad_images) > self._max_bad_images:
            *_, latest = self.bad_images.values()
            return (
                f"{len(self.bad_images)} bad images are more than DATALOADER.MAX_BAD_IMAGES "
                f"({self._max_bad_images}), the latest: {latest}"
            )
        return next((failure for failure, _ in gathered if failure), "")

    def _fetch(self) -> None:
        try:
            self._ahead = [next(self._batches) for _ in range(self._parts)]
        except UserError as error:
            self._failure = str(error)
