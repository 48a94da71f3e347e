"""Lazy imports: public names whose modules are imported at first use, so that importing a package is fast."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the module-level `__getattr__` and `__dir__` (PEP 562) of a package.

    `modules` maps each public name to the module that defines it, most often relative to the package: `{"load":
    ".weights"}`. A name must differ from the submodules of its package, because importing a submodule binds its name
    to the module.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        value = getattr(import_module(modules[name], package), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*modules, *vars(sys.modules[package])} - {"annotations", "TYPE_CHECKING"})

    return get, names


def imported(name: str) -> Any:
    """Return a module if it is imported, else None; wait for a thread that is just importing it.

    `sys.modules` has modules from the beginning of their import on, when most of their names are not defined yet.
    """
    return import_module(name) if sys.modules.get(name) is not None else None
