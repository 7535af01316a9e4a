"""What is refused before the page's framework sees it."""

import json

import pytest

pytest.importorskip("starlette")
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from ita.web.guard import MAX_BODY, Guard


async def echo(request: Request) -> Response:
    return Response(await request.body())


@pytest.fixture
def client():
    app = Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST"])])
    app.add_middleware(Guard)
    return TestClient(app)


@pytest.mark.parametrize(
    "path",
    [
        "file=http://example.org/a.png",
        "file=https:/example.org",
        "file/http://example.org",
        "file=%68ttp://example.org",
        "proxy=http://example.org",
        "deep_link?session_hash=1",
    ],
)
def test_addresses_are_not_fetched(client, path):
    assert client.get(f"/gradio_api/{path}").status_code == 403


def test_other_requests_pass_with_a_policy(client):
    body = json.dumps({"data": [{"path": "a.png", "url": "http://127.0.0.1/a.png"}, "http:"]})
    answer = client.post("/gradio_api/queue/join", content=body)
    assert (answer.status_code, answer.text) == (200, body)
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert client.get("/gradio_api/file=a.png").status_code == 200


@pytest.mark.parametrize(
    "value", [{"path": "http://example.org"}, {"a": [{"path": "https://example.org"}]}]
)
def test_files_are_not_addresses(client, value):
    answer = client.post("/gradio_api/queue/join", content=json.dumps({"data": [value]}))
    assert answer.status_code == 403
    assert "upload the image" in answer.text


def test_only_uploads_are_large(client):
    body = b" " * (MAX_BODY + 1)
    assert client.post("/gradio_api/queue/join", content=body).status_code == 413
    assert client.post("/gradio_api/queue/join", content=iter([body, body])).status_code == 413
    assert client.post("/gradio_api/upload", content=body).status_code == 200
    assert client.post("/gradio_api/queue/join", content=b"[" * 100_000).status_code == 200
