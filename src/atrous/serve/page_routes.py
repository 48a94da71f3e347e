"""The routes behind the page's viewer: segment a photograph for it, and the example."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import FileResponse, RedirectResponse, Response

from atrous.export.push import example_image
from atrous.inference.segmentation import Segmentation
from atrous.serve.limits import ServiceError
from atrous.serve.negotiate import ResultFormat
from atrous.serve.routes import AnyService, received_upload, respond
from atrous.serve.schemas import SegmentQuery
from atrous.serve.view import encode_view

VIEWER_FILES = Path(__file__).parent / "viewer"
"""The files of the viewer: HTML, styles, scripts, icon."""

router = APIRouter()


class ViewQuery(SegmentQuery):
    """The options of a segmentation, and whether the photograph comes back with it."""

    photo: bool = False


@router.post("/viewer/segment")
async def segment(request: Request, service: AnyService, query: Annotated[ViewQuery, Query()]) -> Response:
    """Segment an image as `/v1/segment` does, within the same limits, into what the viewer draws: see `encode_view`.

    An image that is too large for the probabilities of all classes is segmented without them.
    """

    def encode(segmentation: Segmentation, file_name: str, **options: Any) -> bytes:
        return encode_view(segmentation, photo=query.photo)

    def view(needs_probabilities: bool) -> ResultFormat:
        return ResultFormat("view", "application/octet-stream", "for the page", encode, needs_probabilities)

    async with received_upload(request, service) as upload:
        try:
            return await respond(request, service, upload, query, view(needs_probabilities=True))
        except ServiceError as error:
            if error.code != "image_too_large":
                raise
        return await respond(request, service, upload, query, view(needs_probabilities=False))


@router.get("/viewer/street.jpg")
async def example() -> Response:
    """Send the photograph that serves as an example."""
    return FileResponse(example_image(), media_type="image/jpeg")


@router.get("/favicon.ico")
async def icon() -> Response:
    """Send the icon, which browsers ask for here before they have read the page."""
    return FileResponse(VIEWER_FILES / "icon.svg", media_type="image/svg+xml")


@router.get("/")
@router.get("/page")
async def root() -> Response:
    """Lead to the page."""
    return RedirectResponse("page/")
