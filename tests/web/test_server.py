"""``ita web`` as a process, asked over HTTP."""

import json
import socket
import sys
import urllib.request
import uuid
from pathlib import Path
from urllib.error import HTTPError

import pytest

from ita.cli import main

pytest.importorskip("gradio")


def fetch(address, content=None, **headers):
    """Status and body of an answer."""
    request = urllib.request.Request(address, content, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def ask(address, inputs):
    """Put a question as the page does; the last message of the server."""
    config, session = json.loads(fetch(f"{address}/config")[1]), uuid.uuid4().hex
    function = max(config["dependencies"], key=lambda d: len(d["inputs"]))
    body = {"data": inputs, "fn_index": function["id"], "session_hash": session}
    status, text = fetch(
        f"{address}/gradio_api/queue/join",
        json.dumps(body).encode(),
        **{"Content-Type": "application/json"},
    )
    if status != 200:
        return text
    _, events = fetch(f"{address}/gradio_api/queue/data?session_hash={session}")
    messages = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: ")]
    return next(m for m in messages if m["msg"] == "process_completed")


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../../../../../etc/passwd",
        "/proc/self/environ",
        str(Path(__file__).resolve()),
        "README.md",
        "ita/toy/model/model.safetensors",
    ],
)
def test_no_file_of_the_server_is_served(server, path):
    for prefix in ("gradio_api/file=", "gradio_api/file/", "static/", "assets/", "file="):
        status, text = fetch(f"{server}/{prefix}{path}")
        assert status in (403, 404), prefix
        assert "root:" not in text


@pytest.mark.parametrize("path", ["/etc/passwd", str(Path(__file__).resolve())])
def test_no_file_of_the_server_is_an_image(server, path):
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    for inputs in ([file, "grass", "semantic", 0.5, None], [None, file, "semantic", 0.5, None]):
        message = ask(server, inputs)
        assert not message["success"]
        assert "root:" not in json.dumps(message)


def test_an_address_is_no_image(server):
    file = {"path": "http://127.0.0.1:1/a.png", "meta": {"_type": "gradio.FileData"}}
    assert "upload the image" in ask(server, [file, "grass", "semantic", 0.5, None])


def test_the_page_loads_nothing_from_elsewhere(server):
    _, config = fetch(f"{server}/config")
    assert json.loads(config)["analytics_enabled"] is False
    with urllib.request.urlopen(server) as page:
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]


def test_a_port_in_use_is_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["web", "--port", str(port)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(
        f"error: cannot serve on 127.0.0.1, port {port}: Address already in use"
    )
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "99999"], "cannot serve on 127.0.0.1, port 99999: "),
        (["--host", "no.such.host.invalid", "--port", "0"], "cannot serve on no.such.host.invalid"),
        (["--weights", "model.pth"], "--weights needs the --config-file of its model"),
        (["--precision", "int3"], "precision is 'int3'"),
        (["--device", "abacus"], "device abacus cannot be used"),
    ],
)
def test_bad_options_are_one_line(words, message, capsys):
    assert main(["web", *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["web"]) == 1
    assert "ita web needs gradio, which is not installed" in capsys.readouterr().err
