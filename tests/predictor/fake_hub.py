"""A server on this machine that keeps model repositories as Hugging Face does."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.serving import serving

SHA = "0123456789" * 4


class FakeHub(ThreadingHTTPServer):
    """Repositories by name, each the content of its files by path; all writes need ``token``."""

    def __init__(self, token: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token, self.repositories = token, dict[str, dict[str, bytes]]()
        self.url = f"http://127.0.0.1:{self.server_port}"


def running_hub(token):
    """Serve an empty hub inside the block."""
    return serving(FakeHub(token))


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *_) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != f"Bearer {self.server.token}":
            return self._send(401, {"error": "Invalid username or password."})
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[1] == "validate-yaml":
            return self._send(200, {"warnings": [], "errors": []})
        if parts[1:] == ["repos", "create"]:
            content = json.loads(body)
            name = f"{content['organization']}/{content['name']}"
            self.server.repositories.setdefault(name, {})
            return self._send(200, {"url": f"{self.server.url}/{name}", "name": name})
        name, action = "/".join(parts[2:4]), parts[4]
        if action == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._send(200, {"files": files})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                data = base64.b64decode(line["value"]["content"])
                self.server.repositories[name][line["value"]["path"]] = data
        commit = {"commitOid": SHA, "commitUrl": f"{self.server.url}/{name}/commit/{SHA}"}
        return self._send(200, commit)

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        is_api = parts[0] == "api"
        name = "/".join(parts[2:4] if is_api else parts[:2])
        files = self.server.repositories.get(name)
        if files is None:
            return self._send(404, {"error": "Repository not found"}, "RepoNotFound")
        if not is_api:
            return self._send(200, files[parts[-1]])
        if parts[4] == "revision":
            return self._send(200, {"id": name, "sha": SHA, "siblings": []})
        tree = [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in files.items()
        ]
        return self._send(200, tree)

    do_HEAD = do_GET

    def _send(self, status: int, content: object, error: str = "") -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", SHA)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
