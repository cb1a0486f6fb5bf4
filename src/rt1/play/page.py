"""The page over HTTP: three files, and who may ask for them."""

from __future__ import annotations

import re
from functools import cache
from http import HTTPStatus
from importlib import resources

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from rt1.report.html import render
from rt1.serve.connections import repeated_header

LIVE = "/live"
"""Path of the WebSocket."""
_FILES = {
    "/": ("play.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_OWN_HOSTS = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d{1,5})?", re.ASCII)


def answer(request: Request) -> Response | None:
    """Return the response to a request. None accepts a WebSocket.

    Requests of other sites are refused: by DNS rebinding, where ``Host`` is the site's name, and across sites, where
    ``Origin`` is that site.
    """
    if (complaint := repeated_header(request, "Host", "Origin")) is not None:
        return _response(400, complaint)
    host = request.headers.get("Host", "")
    if not _OWN_HOSTS.fullmatch(host):
        return _response(403, "open the page under the address that rt1 play printed\n")
    if request.path == LIVE:
        if request.headers.get("Origin") != f"http://{host}":
            return _response(403, "only the page of rt1 play may connect\n")
        return None
    if request.path not in _FILES:
        return _response(404, "there is nothing here. The page is at /\n")
    name, kind = _FILES[request.path]
    return _response(200, _text(name), kind=kind, connect=f"ws://{host}")


@cache
def _text(name: str) -> str:
    if name == "play.html":
        return render(name, title="rt1 play")
    text = resources.files("rt1.play").joinpath(name).read_text(encoding="utf-8")
    return f"{render('page.css')}\n{text}" if name.endswith(".css") else text


def _response(status: int, text: str, *, kind: str = "text/plain; charset=utf-8", connect: str = "'none'") -> Response:
    body = text.encode()
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src {connect}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Type": kind,
        "Content-Length": str(len(body)),
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
        "Connection": "close",
    }
    return Response(status, HTTPStatus(status).phrase, Headers(headers), body)
