"""Build networks without memory for their weights, to load these from a file or to look at shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_RANDOM = ("kaiming_normal_", "normal_", "trunc_normal_")


@contextmanager
def meta_device() -> Iterator[None]:
    """Build networks on the "meta" device in this block, without initializing their weights.

    Drawing values that do not exist takes torch longer than its whole import: it loads its compiler for that.
    """
    with torch.device("meta"), _NoInitialization():
        yield


class _NoInitialization(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _RANDOM:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
