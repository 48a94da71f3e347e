"""The routes of the API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, Response

from atrous.serve.limits import REASONS, ServiceError
from atrous.serve.negotiate import RESULT_FORMATS, ResultFormat, choose_format
from atrous.serve.reference import SECURITY_POLICY, reference_page
from atrous.serve.schemas import ModelInfo, ModelList, SegmentQuery, Status, problems
from atrous.serve.service import SegmentResult, Service
from atrous.serve.upload import IMAGE_FIELD, Upload, parse_upload, read_body

T = TypeVar("T")

router = APIRouter()

_BINARY = {"type": "string", "format": "binary"}
_IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {IMAGE_FIELD: _BINARY}, "required": [IMAGE_FIELD]}
            },
            "application/octet-stream": {"schema": _BINARY},
            "image/*": {"schema": _BINARY},
        },
    }
}


def get_service(request: Request) -> Service:
    """Find the service of the application."""
    service: Service = request.app.state.service
    return service


AnyService = Annotated[Service, Depends(get_service)]


@router.post(
    "/v1/segment",
    summary="Segment an image",
    response_class=Response,
    openapi_extra=_IMAGE_BODY,
    responses={
        200: {
            "description": "The result in the format asked for.",
            "content": {each.media_type: {} for each in RESULT_FORMATS.values()},
        },
        **problems(*(code for code in REASONS if code != "unauthorized")),  # that of the token is added with it
    },
)
async def segment(request: Request, service: AnyService, query: Annotated[SegmentQuery, Query()]) -> Response:
    """Segment the image in the body: a file as it is (JPEG, PNG, WebP, TIFF, BMP, GIF, PPM), or the field `image` of a
    form.

    The result has the size of the image. Its format is `format`, or else what `Accept` prefers. The header
    `Server-Timing` has the milliseconds of each stage, `X-Model` the id of the weights.
    """
    result_format = choose_format(query.format, request.headers.get("accept", ""))
    async with received_upload(request, service) as upload:
        return await respond(request, service, upload, query, result_format)


@asynccontextmanager
async def received_upload(request: Request, service: Service) -> AsyncIterator[Upload]:
    """Receive the image of a request, unless the request could not be accepted, and hold it within the block.

    Raises: `ServiceError` for a load or a body beyond the limits, and a damaged form.
    """
    service.admission.check()  # refused requests are not received first
    with service.uploads.hold() as count:
        with service.uploads.enter():
            body = await read_body(request, service.limits, count)
            upload = await asyncio.to_thread(parse_upload, body, request.headers.get("content-type", ""))
        del body  # of a form it is a copy
        yield upload


async def respond(
    request: Request, service: Service, upload: Upload, query: SegmentQuery, result_format: ResultFormat
) -> Response:
    """Segment an image, and answer with the result in a format.

    Raises: `ServiceError` as `Service.segment`; `ClientDisconnect`.
    """
    options = query.options(probabilities=result_format.needs_probabilities)
    encode = partial(result_format.encode, file_name=upload.file_name, **query.format_options())
    result = await _unless_disconnected(request, service.segment(upload.content, options, encode=encode))
    assert result.content is not None
    return Response(result.content, media_type=result_format.media_type, headers=_headers(result))


def _headers(result: SegmentResult) -> dict[str, str]:
    timing = ", ".join(f"{stage};dur={1000 * seconds:.1f}" for stage, seconds in result.seconds.items())
    return {"Server-Timing": timing, "X-Model": result.model.id}


async def _unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Wait for work on a request, and cancel it if the client disconnects.

    Raises: `ClientDisconnect`.
    """
    task, watcher = asyncio.ensure_future(work), asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        watcher.cancel()
        task.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@router.get("/v1/models", summary="List the models", responses=problems("internal_error"))
async def list_models(service: AnyService) -> ModelList:
    """List the weights of the service with their cards; requests that name none use the first."""
    return ModelList(models=[ModelInfo.of(model) for model in service.models.values()])


@router.get("/v1/models/{id}", summary="Describe a model", responses=problems("unknown_model", "internal_error"))
async def describe_model(service: AnyService, id: str) -> ModelInfo:
    """Describe weights of the service."""
    return ModelInfo.of(service.networks.find(id))


@router.get("/healthz", summary="Tell whether the process lives")
async def health() -> Status:
    """Tell that the process answers."""
    return Status(status="ok")


@router.get("/readyz", summary="Tell whether requests are taken", responses=problems("stopping"))
async def ready(service: AnyService) -> Status:
    """Tell whether the service takes requests; while it stops, it does not."""
    if service.admission.stopping:
        raise ServiceError("stopping", "The service stops.")
    return Status(status="ready")


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"description": "Metrics in the text format of Prometheus.", "content": {"text/plain": {}}}},
)
async def metrics(service: AnyService) -> Response:
    """Report requests by route and code, seconds by stage, batch sizes, the length of the queue, and memory."""
    return Response(service.metrics.expose(), media_type=service.metrics.content_type)


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """Document the API, without anything from another host."""
    page = reference_page(request.app.openapi(), str(request.base_url).rstrip("/"))
    return HTMLResponse(page, headers={"Content-Security-Policy": SECURITY_POLICY})
