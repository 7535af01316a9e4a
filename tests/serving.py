"""Servers beside the tests."""

import threading
from contextlib import contextmanager


@contextmanager
def serving(server):
    """Serve inside the block, in a thread."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
