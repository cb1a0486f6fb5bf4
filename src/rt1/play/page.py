"""The page over HTTP: three files, and who may ask for them."""

from __future__ import annotations

import logging
import re
from functools import cache
from importlib import resources

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from rt1.report.html import render

_LOG = logging.getLogger(__name__)
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
    for name in ("Host", "Origin"):
        if (count := len(request.headers.get_all(name))) > 1:
            _LOG.warning("a request with %d %s headers was refused", count, name)
            return _response(400, "Bad Request", f"the request has {count} {name} headers; send one\n")
    host = request.headers.get("Host", "")
    if not _OWN_HOSTS.fullmatch(host):
        return _response(403, "Forbidden", "open the page under the address that rt1 play printed\n")
    if request.path == LIVE:
        if request.headers.get("Origin") != f"http://{host}":
            return _response(403, "Forbidden", "only the page of rt1 play may connect\n")
        return None
    if request.path not in _FILES:
        return _response(404, "Not Found", "there is nothing here; the page is at /\n")
    name, kind = _FILES[request.path]
    return _response(200, "OK", _text(name), kind=kind, connect=f"ws://{host}")


@cache
def _text(name: str) -> str:
    if name == "play.html":
        return render(name, title="rt1 play")
    text = resources.files("rt1.play").joinpath(name).read_text(encoding="utf-8")
    return f"{render('page.css')}\n{text}" if name.endswith(".css") else text


def _response(
    status: int, reason: str, text: str, *, kind: str = "text/plain; charset=utf-8", connect: str = "'none'"
) -> Response:
    body = text.encode()
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src {connect}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = Headers(
        {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
            "Connection": "close",
        }
    )
    return Response(status, reason, headers, body)
