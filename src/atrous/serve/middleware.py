"""Count requests, and ask for the token, before anything else is done for a request."""

from __future__ import annotations

import base64
import binascii
import hmac

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atrous.serve.limits import ServiceError
from atrous.serve.metrics import Metrics
from atrous.serve.schemas import PROBLEM_TYPE, Problem

OPEN_PATHS = ("/healthz", "/readyz")
"""The paths that need no token, so that those who watch over the service need none."""


MAX_HEADER_BYTES = 2**16


def problem_response(error: ServiceError) -> Response:
    """Describe an error as a response."""
    return Response(Problem.of(error).model_dump_json(), error.status, headers=error.headers, media_type=PROBLEM_TYPE)


class CountRequests:
    """Count requests by route and status code; a client that is gone counts as 499, as in nginx."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        code: int | None = None

        async def counted(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception:
            code = code or 500  # which Starlette answers outside of all middleware
            raise
        finally:
            route = getattr(scope.get("route"), "path", None) or "other"
            self._metrics.requests.labels(route, code or 499).inc()


class LimitHeaders:
    """Answer requests whose address and headers exceed `MAX_HEADER_BYTES` with 431."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            size = len(scope["query_string"]) + sum(len(name) + len(value) for name, value in scope["headers"])
            if size + len(scope["path"]) > MAX_HEADER_BYTES:
                error = ServiceError("headers_too_large", f"The headers exceed {MAX_HEADER_BYTES} bytes.")
                await problem_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class RequireToken:
    """Answer requests without the token with 401.

    The token is a bearer token, or the password of HTTP's basic authentication with any user name, which browsers ask
    for. It is compared in constant time.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and scope["path"] not in OPEN_PATHS:
            token = _token(Headers(scope=scope).get("authorization", ""))
            if not hmac.compare_digest(token, self._token):
                error = ServiceError(
                    "unauthorized",
                    "The token is missing or wrong: send the header 'Authorization: Bearer TOKEN'.",
                    {"WWW-Authenticate": 'Bearer realm="atrous", Basic realm="atrous", charset="UTF-8"'},
                )
                await problem_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _token(authorization: str) -> bytes:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""
