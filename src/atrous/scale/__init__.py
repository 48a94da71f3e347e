"""Many machines: segment, evaluate and refine images on a Ray cluster, and serve networks by Ray Serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atrous.lazy import lazy_names

__all__ = ["deployment"]

if TYPE_CHECKING:
    from atrous.scale.ray_serve import deployment

__getattr__, __dir__ = lazy_names(__name__, {"deployment": ".ray_serve"})
