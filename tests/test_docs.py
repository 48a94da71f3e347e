"""The documentation: generated pages are up to date, links lead somewhere, every page is in the site's navigation."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def script(path: str) -> ModuleType:
    """Import a script of the repository that is not part of the package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_rates_of_the_recipes_are_those_of_this_code() -> None:
    rates = script("benchmarks/rates.py")
    page = (ROOT / "docs" / "deeplab_v3.md").read_text("utf-8")
    assert rates.table() in page, "run `python benchmarks/rates.py` and put its table into docs/deeplab_v3.md"
    published = [row for row in rates.rows() if row[3] != "none"]
    assert published
    for _, stage, at16, published16, at8, published8 in published:
        assert (at16, at8) == (published16, published8), stage


def test_reference_pages_are_generated_from_this_code() -> None:
    module = script("docs/generate_reference.py")
    stale = [name for name, text in module.pages().items() if (module.FOLDER / name).read_text("utf-8") != text]
    assert not stale, f"run `make reference`: {', '.join(stale)} in docs/reference do not match the code"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_images_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        assert re.match(r"[a-z]+:", target) or (page.parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_imports_in_examples_resolve(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("atrous"):
                module = importlib.import_module(str(node.module))
                assert not [name.name for name in node.names if not hasattr(module, name.name)]


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in sorted((ROOT / "docs").rglob("*.md")):
        assert f" {page.relative_to(ROOT / 'docs')}\n" in navigation


def test_readme_links_every_page() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for page in sorted((ROOT / "docs").glob("**/*.md")):
        if page.name != "index.md" and page.parent.name != "api":
            assert f"]({page.relative_to(ROOT)})" in readme
