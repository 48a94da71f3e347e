"""`create_app`: the HTTP API of a service, by FastAPI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from atrous import __version__
from atrous.errors import describe_unexpected
from atrous.serve.description import describe_api
from atrous.serve.limits import ServiceError
from atrous.serve.middleware import CountRequests, LimitHeaders, RequireToken, problem_response
from atrous.serve.routes import router
from atrous.serve.schemas import PROBLEM_TYPE, Problem
from atrous.serve.service import Service


def create_app(service: Service, *, token: str | None = None) -> FastAPI:
    """Create the HTTP application of a service.

    With `token`, requests need it, but for `/healthz` and `/readyz`. Nothing is loaded from other hosts. The service is
    closed when the application shuts down.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="atrous", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        redirect_slashes=False,  # whose addresses would be what the header `Host` says
    )  # fmt: skip
    app.state.service = service
    app.include_router(router)
    app.openapi = lambda: describe_api(app, with_token=token is not None)  # type: ignore[method-assign]
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _invalid_option)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _disconnected)
    app.add_exception_handler(Exception, _internal_error)
    if token is not None:
        app.add_middleware(RequireToken, token=token)
    app.add_middleware(LimitHeaders)
    app.add_middleware(CountRequests, metrics=service.metrics)
    return app


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return problem_response(error)


async def _invalid_option(request: Request, error: Exception) -> Response:
    """Describe the first option that is unknown or out of range."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][1:]) or "the query"
    return problem_response(ServiceError("invalid_option", f"{name:.100}: {first['msg']}."))


async def _http_error(request: Request, error: Exception) -> Response:
    """Describe an error of routing: an unknown path, or a method that a path does not have."""
    assert isinstance(error, HTTPException)
    problem = Problem(
        title=str(error.detail), status=error.status_code, code="not_found" if error.status_code == 404 else "http",
        detail=f"{request.method} {request.url.path:.200}: {error.detail}. See /docs.",
    )  # fmt: skip
    return Response(problem.model_dump_json(), error.status_code, headers=error.headers, media_type=PROBLEM_TYPE)


async def _disconnected(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # which nobody receives; nginx counts them so


async def _internal_error(request: Request, error: Exception) -> Response:
    return problem_response(
        ServiceError("internal_error", f"{describe_unexpected(error)}. This is an error of atrous: please report it.")
    )
