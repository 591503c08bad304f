"""Who may do what: each request is admitted before its body is read."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ontime.errors import PredictionLogUnavailable
from serving.errors import domain_error_response
from serving.keyring import Caller
from serving.problems import NotAllowed, NotAuthenticated, TooManyRequests

# What machines call without a key: probes and Prometheus. A network policy restricts it.
OPEN_PATHS = frozenset({"/health", "/ready", "/metrics"})
# Every other GET needs `read`, and every other request `operate`: a new route is closed by default.
SCOPE_OF_POST = {
    "/predict": "predict",
    "/outcomes": "outcomes",
    **dict.fromkeys(("/explain", "/ask", "/what-if"), "read"),
}


def needed_scope(method: str, path: str) -> str | None:
    """The scope that a request needs; None: it needs no key."""
    if method == "POST":
        return SCOPE_OF_POST.get(path, "operate")
    if method in ("GET", "HEAD"):
        return None if path in OPEN_PATHS else "read"
    return "operate"


REFUSED = (NotAuthenticated, NotAllowed, TooManyRequests, PredictionLogUnavailable)


class AccessMiddleware:
    """ASGI middleware: admits a request, or answers with 401, 403 or 429 before its body is read.

    The caller is in the request's state, for the prediction log and the log line. The callers of
    `trusted` paths were admitted by the platform that passes on the request.
    """

    def __init__(self, app: ASGIApp, trusted: Mapping[str, Caller]) -> None:
        self.app, self.trusted = app, trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if (trusted := self.trusted.get(scope["path"])) is not None:
            scope["state"]["caller"] = trusted
            return await self.app(scope, receive, send)
        needed = needed_scope(scope["method"], scope["path"])
        if needed is None:
            return await self.app(scope, receive, send)
        state = scope["app"].state.app_state
        authorization = next((v for name, v in scope["headers"] if name == b"authorization"), None)
        try:
            caller = state.keys.admit(authorization, needed)
        except REFUSED as error:
            state.metrics.rejected.labels(type(error).__name__).inc()
            response = domain_error_response(Request(scope), error)
            return await response(scope, receive, send)
        scope["state"]["caller"] = caller
        try:
            await self.app(scope, receive, send)
        finally:
            caller.in_progress -= 1
