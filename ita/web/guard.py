"""What the server refuses before Gradio sees it, and the policy that it gives to browsers."""

import json
import re
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Gradio fetches such addresses for whoever asks, and stores pages for links to them.
REFUSED = re.compile(r"/gradio_api/(file[=/]https?:|proxy=|deep_link)")
# Files, whose size Gradio limits.
UPLOAD = re.compile(r"/gradio_api/upload/?$")
ADDRESS = ("http:", "https:")
# Bytes of any other request: the texts and numbers of a question.
MAX_BODY = 1_000_000
# The browser loads nothing from elsewhere. Gradio's scripts compile templates.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:"
)


class Guard:
    """Refuses large requests and those that make the server fetch addresses, as an ASGI middleware.

    All answers carry ``POLICY``, so that browsers load nothing from other servers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        async def refuse(reason: str, code: int) -> None:
            await PlainTextResponse(reason, code)(scope, receive, send_with_policy)

        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif REFUSED.search(scope["path"]):
            await refuse("not allowed", 403)
        elif scope["method"] != "POST" or UPLOAD.search(scope["path"]):
            await self.app(scope, receive, send_with_policy)
        elif (body := await _read(receive)) is None:
            await refuse(f"more than {MAX_BODY} bytes", 413)
        elif names_address(body):
            await refuse("upload the image instead of its address", 403)
        else:
            await self.app(scope, _replay(body, receive), send_with_policy)


def names_address(body: bytes) -> bool:
    """Whether a request, in JSON, names an address as the path of a file."""
    try:
        return _names_address(json.loads(body))
    except (ValueError, RecursionError):
        return False  # Gradio refuses it


def _names_address(value: Any) -> bool:
    if isinstance(value, dict):
        path = value.get("path")
        if isinstance(path, str) and path.startswith(ADDRESS):
            return True
        return any(map(_names_address, value.values()))
    return isinstance(value, list) and any(map(_names_address, value))


async def _read(receive: Receive) -> bytes | None:
    """Return the body of a request; None if it exceeds the limit or is cut off."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            return None
        if not message.get("more_body"):
            return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return the body first, then what comes after it."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed
