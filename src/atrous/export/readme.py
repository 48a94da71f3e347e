"""Write the README of a repository of weights on the hub from their card."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Any

import yaml

from atrous.card import Card, Measurement
from atrous.marks import Mark
from atrous.models import MODELS
from atrous.weights.hub import TAG

MARK = Mark("push")
"""The mark of a README that was written from a card, and may be replaced."""

MANY_CLASSES = 40
"""From this number of classes on, their table is folded."""

_LICENSES = (
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "cc-by-3.0", "cc-by-sa-3.0", "cc-by-nc-3.0",
    "cc-by-nc-sa-3.0", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "mpl-2.0", "unlicense", "unknown",
)  # fmt: skip
"""Licenses that the hub knows by these names."""


@dataclass(frozen=True)
class Contents:
    """What a repository holds beside the README."""

    repo: str
    """Its name, such as `user/name`."""
    file: str
    num_bytes: int
    parameters: int
    picture: str = ""
    """The file of an example picture; empty without one."""
    picture_caption: str = ""


def write_readme(card: Card, contents: Contents) -> str:
    """Write the README of a repository: metadata for the hub, and a description for people, in Markdown."""
    name = contents.repo.rpartition("/")[2]
    sections = [
        f"---\n{yaml.safe_dump(_metadata(card, name), sort_keys=False, allow_unicode=True, width=100)}---",
        f"# {_text(name)}",
        _summary(card),
        f"![{_text(contents.picture_caption)}]({contents.picture})" if contents.picture else "",
        f"*{_text(contents.picture_caption)}*" if contents.picture else "",
        _usage(contents.repo),
        _results(card.measured),
        _classes(card),
        _network(card, contents),
        f"## License\n\n{_text(card.license)}" + (_NO_LICENSE if card.license == "unknown" else ""),
        _citation(card),
        f"<!-- {MARK} the next push replaces this file, unless this line is removed -->",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


_NO_LICENSE = ": the card of these weights names none. Ask their publisher before you use them."


def _metadata(card: Card, name: str) -> dict[str, Any]:
    """Collect the metadata by which the hub sorts and finds repositories."""
    license_id = card.license.strip().lower()
    named = {
        "license_name": re.sub(r"[^a-z0-9.]+", "-", license_id)[:60].strip("-") or "custom",
        "license_link": "README.md",
    }
    known = license_id in _LICENSES
    return {
        "library_name": "atrous",
        "pipeline_tag": "image-segmentation",
        "license": license_id if known else "other",
        **({} if known else named),
        "tags": [TAG, "semantic-segmentation", "pytorch", card.model.partition(".")[0].replace("_", "-")],
        **({"model-index": [{"name": name, "results": _index(card.measured)}]} if card.measured else {}),
    }


def _index(figures: Iterable[Measurement]) -> list[dict[str, Any]]:
    """List the figures as the hub's `model-index` has them, by data set."""
    types = {"mIoU": "mean_iou", "pixel accuracy": "accuracy"}
    return [
        {
            "task": {"type": "image-segmentation", "name": "Semantic segmentation"},
            "dataset": {"name": data, "type": re.sub(r"[^a-z0-9]+", "-", data.lower()).strip("-") or "data"},
            "metrics": [
                {
                    "type": types.get(figure.name, re.sub(r"[^a-z0-9]+", "_", figure.name.lower())),
                    "name": figure.name + (" (published)" if figure.published else ""),
                    "value": figure.value,
                }
                for figure in group
            ],
        }
        for data, group in groupby(figures, lambda figure: figure.data)
    ]


def _summary(card: Card) -> str:
    paper = MODELS.entry(card.model).paper
    number = f"{len(card.classes)} classes" if len(card.classes) > 1 else "1 class"
    network = f"`{card.model}`"
    if paper is not None:
        title = f"[{_text(paper.title)}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else _text(paper.title)
        network += f", the network of {title} ({_text(paper.short.partition(', arXiv')[0])}, {paper.year})"
    trained = f" It was trained on {_text(card.trained_on)}." if card.trained_on else ""
    figure = next((each for each in card.measured if each.name == "mIoU"), None)
    if figure is not None:
        origin = ", as its publisher reports" if figure.published else ""
        trained += f" Its **mIoU is {figure.value:g}** on {_code(figure.data)}{origin}."
    return (
        f"Semantic segmentation of images into {number} by {network}.{trained} The weights are for "
        "atrous, a PyTorch library for semantic segmentation."
    )


def _usage(repo: str) -> str:
    return f"""## Use

```bash
pip install 'atrous[hub]'
atrous predict photograph.jpg -w hf://{repo} -o segmented
```

```python
import atrous

segmenter = atrous.Segmenter.load("hf://{repo}")
result = segmenter("photograph.jpg")
print(result.class_fractions())
result.save("segmented/photograph.png")  # the labels, and an overlay next to them
```

`hf://{repo}@COMMIT` always gives the same version. To train the network on classes of your own, start with
`atrous.load("hf://{repo}", classes=["first", "second"])`."""


def _results(figures: tuple[Measurement, ...]) -> str:
    """Describe the figures: a table for each data set and command."""
    if not figures:
        return ""
    parts = ["## Results"]
    for (data, command, published), group in groupby(figures, lambda each: (each.data, each.command, each.published)):
        origin = ", published by the publisher of the weights, not measured with atrous" if published else ""
        parts.append(f"On {_code(data)}{origin}:")
        parts.append(_table(("metric", "value"), ((_text(each.name), f"{each.value:g}") for each in group), "-:"))
        if command:
            parts.append(f"Measured by:\n\n```bash\n{command.replace('```', '')}\n```")
    return "\n\n".join(parts)


def _classes(card: Card) -> str:
    rows = [
        (str(index), _text(name), f"`#{red:02x}{green:02x}{blue:02x}`")
        for index, (name, (red, green, blue)) in enumerate(zip(card.classes, card.colors, strict=True))
    ]
    table = _table(("label", "class", "color"), rows)
    if len(rows) >= MANY_CLASSES:
        table = f"<details><summary>All {len(rows)} classes</summary>\n\n{table}\n\n</details>"
    ignored = f"Pixels with label {card.ignore_index} were ignored in training."
    return f"## Classes\n\n{table}\n\n{ignored}"


def _network(card: Card, contents: Contents) -> str:
    arguments = ", ".join(f"{key}={value}" for key, value in card.arguments.items())
    header = ("network", _code(card.model) + (f", {_code(arguments)}" if arguments else ""))
    rows = {
        "parameters": f"{contents.parameters:,}",
        "file": f"{_code(contents.file)}, {contents.num_bytes / 1e6:.1f} MB",
        "input": _text(_describe_input(card)),
        "resizing of maps": "bilinear, with aligned corners" if card.align_corners else "bilinear",
        "source": _text(card.source),
    }
    return f"## Network\n\n{_table(header, ((key, value) for key, value in rows.items() if value))}"


def _describe_input(card: Card) -> str:
    settings = card.preprocessing
    height, width = settings.size or (0, 0)
    resize = {
        "keep": "at their own size",
        "squeeze": f"resized to {width} x {height}",
        "pad": f"shrunk to fit into {width} x {height}, and padded",
        "shorter_side": f"resized so that the shorter side has {min(height, width)} pixels",
    }[settings.resize]
    grid = f", sides being multiples of {settings.grid} plus 1" if settings.grid else ""
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (settings.mean, settings.std))
    return f"{settings.channel_order} images {resize}{grid}; mean {mean}; standard deviation {std} (atrous does this)"


def _citation(card: Card) -> str:
    paper = MODELS.entry(card.model).paper
    if paper is None:
        return ""
    fields = {
        "title": paper.title,
        "author": " and ".join(paper.authors.split(", ")),
        "year": str(paper.year),
        **({"eprint": paper.arxiv, "archivePrefix": "arXiv"} if paper.arxiv else {}),
    }
    key = re.sub(r"\W", "", paper.authors.partition(",")[0].rpartition(" ")[2].lower()) + str(paper.year)
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"## Citation\n\n```bibtex\n@article{{{key},\n{lines}\n}}\n```"


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]], last: str = "-") -> str:
    aligned = ["-"] * (len(header) - 1) + [last]
    lines = [header, tuple(aligned), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: str) -> str:
    """Write text of a card as plain text in Markdown, on one line, whatever signs it contains."""
    return re.sub(r"([\\`*_{}\[\]|#~$])", r"\\\1", escape(" ".join(value.split()), quote=False))


def _code(value: str) -> str:
    """Write text of a card as code in Markdown, on one line and in tables, too."""
    return f"`{' '.join(value.split()).replace('`', ' ').replace('|', chr(92) + '|')}`"
