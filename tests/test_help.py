"""`help(atrous)`: everything that it reaches has a docstring."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import pydoc
from collections.abc import Iterator
from typing import Any

import pytest

import atrous

PACKAGES = ["atrous", *(f"atrous.{module.name}" for module in pkgutil.iter_modules(atrous.__path__))]


def described(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The objects with a docstring behind a public name: a function, or a class with its own and inherited members."""
    if inspect.isclass(value):
        yield name, value
        for key, member in inspect.getmembers(value):
            owner = next((base for base in value.__mro__ if key in vars(base)), value)
            if (key == "__call__" or not key.startswith("_")) and owner.__module__.startswith("atrous"):
                member = inspect.getattr_static(value, key)
                if isinstance(member, (property, classmethod, staticmethod)) or inspect.isfunction(member):
                    yield f"{name}.{key}", getattr(value, key)
    elif callable(value):
        yield name, value


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_have_docstrings(package: str) -> None:
    module = importlib.import_module(package)
    assert (module.__doc__ or "").strip()
    names = getattr(module, "__all__", [])
    missing = [
        label
        for name in names
        for label, value in described(f"{package}.{name}", getattr(module, name))
        if not (inspect.getdoc(value) or "").strip()
    ]
    assert not missing


def test_help_shows_the_public_functions() -> None:
    text = pydoc.plain(pydoc.render_doc(atrous))
    for name in atrous.__all__:
        assert name in text
