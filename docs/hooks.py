"""Hooks of the site's build: root pages, links that leave docs/, and formulas without JavaScript."""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ROOT_PAGES = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
"""Pages of the site whose text is a file at the root of the repository."""
FIELDS = "Shape|Source|Raises|Returns|Yields|Dimensions"
"""Fields of docstrings, named at the beginning of a line."""


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add the pages whose text is outside docs/."""
    for page, source in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Point links to files of the repository at the page that shows them; unlink those that no page shows."""
    if page.file.src_uri == "index.md":
        markdown = markdown.replace("<!-- Results of the README -->", _results())
    source = ROOT_PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def rewrite(match: re.Match[str]) -> str:
        text, target, anchor = match["text"], match["target"], match["anchor"] or ""
        if re.match(r"[a-z]+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path.startswith("docs/") and source.startswith("docs/"):
            return match[0]
        shown, anchor = _page_of(path, anchor)
        if not shown or files.get_file_from_path(shown) is None:
            return text
        return f"[{text}]({posixpath.relpath(shown, posixpath.dirname(page.file.src_uri) or '.')}{anchor})"

    return re.sub(r"(?<!!)\[(?P<text>[^\[\]]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)", rewrite, markdown)


def _results() -> str:
    """Return the results of the README, with links relative to docs/."""
    section = (ROOT / "README.md").read_text("utf-8").split("\n## Results\n")[1].split("\n## ")[0]
    return f"## Results\n{section}".replace("](docs/", "](")


def _page_of(path: str, anchor: str) -> tuple[str, str]:
    """Find the page of the site that shows a file of the repository, and the anchor on it."""
    for page, source in ROOT_PAGES.items():
        if path == source:
            return page, anchor
    if path.startswith("docs/"):
        return path.removeprefix("docs/"), anchor
    if path == "README.md":
        return "index.md", anchor
    if path == "recipes" or path.startswith("recipes/"):
        name = Path(path).stem if path.endswith(".yaml") else ""
        return "reference/recipes.md", f"#{name}" if name else ""
    if path.startswith("src/atrous"):
        parts = Path(path).with_suffix("").parts[1:]
        room = parts[1] if len(parts) > 1 else "atrous"
        name = ".".join(part for part in parts if part != "__init__")
        return f"reference/api/{room}.md", f"#{name}"
    return "", ""


def on_page_content(content: str, page: Page, **_: Any) -> str:
    """Set formulas without JavaScript, and the fields of docstrings on lines of their own."""
    if page.file.src_uri.startswith("reference/api/"):
        content = re.sub(rf"<p>({FIELDS}):", r"<p><strong>\1</strong>:", content)
        content = re.sub(rf"\n({FIELDS}):", r"<br><strong>\1</strong>:", content)
    return _formulas(content)


def _formulas(content: str) -> str:
    r"""Turn the formulas that arithmatex marks, \(...\) and \[...\], into MathML, which browsers draw themselves."""

    def formula(match: re.Match[str]) -> str:
        inline = match["open"] == r"\("
        return convert(html.unescape(match["tex"].strip()), display="inline" if inline else "block")

    return re.sub(
        r'<(?P<tag>span|div) class="arithmatex">\s*(?P<open>\\[(\[])(?P<tex>.*?)\\[)\]]\s*</(?P=tag)>',
        formula,
        content,
        flags=re.DOTALL,
    )
