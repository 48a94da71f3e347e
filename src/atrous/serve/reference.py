"""The documentation of the API as a page without scripts, made from its OpenAPI description."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --line: #8885; --faint: #8882; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: auto; padding: 1rem; overflow-wrap: anywhere; }
section { border-top: 1px solid var(--line); margin-top: 2rem; }
code, pre { font-family: ui-monospace, monospace; background: var(--faint); border-radius: .25rem; padding: .1em .3em; }
pre { padding: .75rem; overflow-x: auto; }
div { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); }
"""

EXAMPLES = {
    "/v1/segment": """curl --data-binary @street.jpg {url}/v1/segment -o labels.png
curl -F image=@street.jpg '{url}/v1/segment?format=overlay&crf=v2' -o overlay.png
curl --data-binary @street.jpg -H 'Accept: application/json' {url}/v1/segment -o coco.json""",
    "/v1/models": "curl {url}/v1/models",
}
"""Commands to try, by path."""

SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""The page loads nothing and runs nothing."""


def reference_page(description: Mapping[str, Any], url: str) -> str:
    """Write the page: every route with its parameters, body and responses, and commands to try at an address."""
    info = description["info"]
    parts = [
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])}: API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><main>'
        f"<h1>{escape(info['title'])} {escape(info['version'])}: API</h1>{_paragraphs(info.get('description', ''))}"
        '<p>The same for programs: <a href="openapi.json">openapi.json</a>.</p>'
    ]
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            parts.append(_section(path, method, operation, url))
    return "".join([*parts, "</main></body></html>"])


def _section(path: str, method: str, operation: Mapping[str, Any], url: str) -> str:
    parts = [
        f"<section><h2><code>{escape(method.upper())} {escape(path)}</code></h2>",
        f"<p><strong>{escape(operation.get('summary', ''))}.</strong></p>",
        _paragraphs(operation.get("description", "")),
    ]
    if path in EXAMPLES:
        parts.append(f"<pre>{escape(EXAMPLES[path].format(url=url))}</pre>")
    if body := operation.get("requestBody"):
        types = ", ".join(f"<code>{escape(media_type)}</code>" for media_type in body["content"])
        parts.append(f"<p>Body: {types}</p>")
    if rows := list(_parameters(operation.get("parameters", []))):
        parts.append(_table(("parameter", "type", "default", "meaning"), rows))
    rows = [
        (escape(status), _inline(response["description"]), ", ".join(map(escape, response.get("content", {}))))
        for status, response in operation["responses"].items()
    ]
    return "".join([*parts, _table(("status", "meaning", "content"), rows), "</section>"])


def _parameters(parameters: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for parameter in parameters:
        schema = parameter.get("schema", {})
        default = schema.get("default")
        yield (
            f"<code>{escape(parameter['name'])}</code>",
            escape(_describe_type(schema)),
            "" if default is None else f"<code>{escape(json.dumps(default))}</code>",
            _inline(parameter.get("description", schema.get("description", ""))),
        )


def _describe_type(schema: Mapping[str, Any]) -> str:
    options = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    kind = options[0]
    if "enum" in kind:
        return ", ".join(map(str, kind["enum"]))
    low, high = kind.get("minimum"), kind.get("maximum")
    span = f" from {low:g} to {high:g}" if low is not None and high is not None else ""
    return f"{kind.get('type', '')}{span}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    cells = "".join(f'<th scope="col">{name}</th>' for name in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div tabindex="0"><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>'


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_inline(part)}</p>" for part in text.split("\n\n") if part.strip())


def _inline(text: str) -> str:
    """Escape a text; what stands between backticks becomes code."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if index % 2 else piece for index, piece in enumerate(pieces))
