"""Serving: an HTTP API that segments images, with batching, limits and metrics, and a page to try it in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atrous.lazy import lazy_names

__all__ = ["Limits", "SegmentOptions", "SegmentResult", "Service", "ServiceError", "create_app"]

if TYPE_CHECKING:
    from atrous.serve.app import create_app
    from atrous.serve.limits import Limits, ServiceError
    from atrous.serve.options import SegmentOptions
    from atrous.serve.service import SegmentResult, Service

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Limits": ".limits",
        "SegmentOptions": ".options",
        "SegmentResult": ".service",
        "Service": ".service",
        "ServiceError": ".limits",
        "create_app": ".app",
    },
)
