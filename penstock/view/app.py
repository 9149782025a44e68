"""The pages as an application that only the one who started it can ask, and whose pages ask nobody else.

Fences, each of which holds alone:

- It listens on 127.0.0.1 and answers only requests that name this address: a site whose name was made to point here
  (DNS rebinding) is refused.
- Every address begins with a random token, which other users of the machine and other sites do not know. It is in no
  cookie (cookies go to all ports of a host), in no log, and in no address that leaves (``Referrer-Policy``).
- All text is escaped, and the pages' content policy allows no script and no address but their own. The map runs the
  scripts that it is made of, and no others.
- Nothing is changed: there are only questions.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from importlib import resources
from typing import TYPE_CHECKING, Any

from penstock.errors import ConfigError, PenstockError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from penstock.view.pages import Pages

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Guard:
    """Lets through what names this host and knows the token, and sets the headers of every answer."""

    def __init__(self, app: Any, *, token: str, port: int) -> None:
        self.app, self.token = app, token
        self.hosts = {f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        given = scope["path"].split("/")[1]
        known = secrets.compare_digest(given.encode("utf-8", "replace"), self.token.encode())
        if scope["type"] != "http" or len(hosts) != 1 or hosts[0] not in self.hosts or not known:
            await _refuse(scope, send)
            return

        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                extra = [(n.encode(), v.encode()) for n, v in _HEADERS.items() if n.encode() not in there]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        await self.app(scope, receive, answer)


async def _refuse(scope: Scope, send: Send) -> None:
    """One answer to all that is not let through: it tells nothing."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"not here\n"})


def application(pages: Pages, *, token: str, port: int) -> Guard:
    """The application behind its guard.

    Args:
        token: first part of every path.
        port: on which it will be asked.
    """
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
    from starlette.routing import Mount, Route

    from penstock.view import map as drawn

    def shown(page: Callable[[Any], Any], headers: Mapping[str, str] | None = None) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            try:
                made = page(request.query_params)
                return HTMLResponse(made, headers=headers) if isinstance(made, str) else JSONResponse(made)
            except ConfigError as error:
                return HTMLResponse(pages.error(str(error)), 404)
            except PenstockError as error:
                return HTMLResponse(pages.error(str(error)), 500)

        return answer

    def script(request: Request) -> Response:
        return PlainTextResponse(drawn.script(), media_type="text/javascript")

    style = _style()
    names = ("row", "drops", "drop", "clusters", "cluster")
    routes = [
        Route("/", shown(pages.search)),
        *(Route(f"/{name}", shown(getattr(pages, name))) for name in names),
        Route("/style.css", lambda request: PlainTextResponse(style, media_type="text/css")),
        Route("/map", shown(pages.map, {"content-security-policy": drawn.POLICY})),
        Route("/map.json", shown(pages.spec)),
        Route("/map.js", script),
    ]
    inner: Starlette = Starlette(routes=[Mount(f"/{token}", routes=routes)])
    return Guard(inner, token=token, port=port)


def _style() -> str:
    """The report's style, and what these pages need besides."""
    report = (resources.files("penstock.report") / "report.css.j2").read_text(encoding="utf-8")
    own = (resources.files("penstock.view") / "templates" / "view.css").read_text(encoding="utf-8")
    return report + own
