"""The OpenAPI description of the API."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from atrous.serve.middleware import OPEN_PATHS
from atrous.serve.schemas import Problem, problems

ABOUT = """Semantic segmentation of images.

Errors are described as RFC 9457 asks (`application/problem+json`); `code` is the reason, a key for programs. Nothing of
a request is written to disk. Results of images that share a forward pass are those of one by one."""


def describe_api(app: FastAPI, *, with_token: bool) -> dict[str, Any]:
    """Make the OpenAPI description of an application, once; it includes the token where one is asked for."""
    if app.openapi_schema is None:
        description = get_openapi(title=app.title, version=app.version, description=ABOUT, routes=app.routes)
        components = description.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
        if with_token:
            _add_token(description)
        app.openapi_schema = description
    return app.openapi_schema


def _add_token(description: dict[str, Any]) -> None:
    """Declare the token, and the answer without it, for all routes but those of health."""
    description["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, operations in description["paths"].items():
        if path not in OPEN_PATHS:
            for operation in operations.values():
                operation["security"] = [{"token": []}]
                operation["responses"] |= {str(status): each for status, each in problems("unauthorized").items()}
