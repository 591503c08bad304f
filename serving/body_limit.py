"""Rejects a request body that is too large before it is held in memory."""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimitMiddleware:
    """ASGI middleware: a body of more than `max_bytes` is answered with 413.

    The declared Content-Length is compared before the first byte is read, and the received bytes
    are counted, because a chunked body declares no length.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        declared = int(Headers(scope=scope).get("content-length", 0))
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            if declared <= self.max_bytes:
                message = await receive()
                received += len(message.get("body", b""))
                if received <= self.max_bytes:
                    return message
            # Raised where the body is read, so that the app's handler writes the response.
            raise HTTPException(413, f"a request body has at most {self.max_bytes:,} bytes")

        await self.app(scope, receive_within_limit, send)
