"""Who may do what: each request is admitted before its body is read."""

from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ontime.errors import PredictionLogUnavailable
from serving.errors import domain_error_response
from serving.keyring import Caller
from serving.problems import HostNotAllowed, NotAllowed, NotAuthenticated, TooManyRequests

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


def describe_security(document: dict[str, Any], anonymous: frozenset[str]) -> dict[str, Any]:
    """Add the key to an OpenAPI document, where it is needed and where it is optional."""
    scheme = {"type": "http", "scheme": "bearer", "description": "An API key"}
    document.setdefault("components", {})["securitySchemes"] = {"key": scheme}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scope = needed_scope(method.upper(), path)
            if scope is not None:
                operation["security"] = [{"key": []}, *([{}] if scope in anonymous else [])]
    return document


REFUSED = (HostNotAllowed, NotAuthenticated, NotAllowed, TooManyRequests, PredictionLogUnavailable)


class AccessMiddleware:
    """ASGI middleware: admits a request, or answers with 401, 403 or 429 before its body is read.

    The caller is in the request's state, for the prediction log and the log line. The callers of
    `trusted` paths were admitted by the platform that passes on the request.
    """

    def __init__(self, app: ASGIApp, trusted: Mapping[str, Caller], hosts: str) -> None:
        """`hosts`: names that a Host header may have, by commas; empty: any."""
        self.app, self.trusted = app, trusted
        self.hosts = frozenset(hosts.lower().replace(" ", "").split(",")) if hosts else None

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
            if self.hosts is not None:
                self._check_host(scope)
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

    def _check_host(self, scope: Scope) -> None:
        """Against a page that gave its own name our address (DNS rebinding)."""
        host = Headers(scope=scope).get("host", "").lower()
        name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
        if self.hosts is not None and name not in self.hosts:
            raise HostNotAllowed("the Host header names this API; the request's does not")
