"""A server on this machine that answers as the Hugging Face Hub does."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from huggingface_hub import constants

from tests.serving import serving

COMMIT = "89abcdef" * 5
# Port 9 is that of a service that no machine runs.
NOWHERE = "http://127.0.0.1:9"


def use_endpoint(url, monkeypatch):
    """Make this process take another server for the Hub."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", url)


class Hub(ThreadingHTTPServer):
    """Serves the same files in every repository.

    Attributes:
        files: content of each file by name.
        requests: method and file name of each request for a file, in order.
        paths: path of each of them.
        failing: whether all requests are refused.
    """

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.requests, self.paths, self.failing = files, [], [], False
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self._answer(b"")

    def do_GET(self):
        self._answer(self.server.files.get(self._name, b""))

    @property
    def _name(self):
        return self.path.rpartition("/")[2]

    def _answer(self, body):
        if not self.path.startswith("/api/"):  # the client asks about itself once per process
            self.server.requests.append((self.command, self._name))
            self.server.paths.append(self.path)
        content = self.server.files.get(self._name)
        if self.server.failing:
            self.send_response(503)
        elif content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_response(200)
            self.send_header("ETag", f'"{len(content)}"')
            self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve(files):
    return serving(Hub(files))
