"""Draw one diagram per architecture from what `explain` tells of it, so that no picture can differ from the code.

    python docs/draw_diagrams.py            all of them, into docs/diagrams
    python docs/draw_diagrams.py pspnet.resnet50 deeplab_v3.resnet50

A row is a stride: the finer, the higher. A box is a stage, an arrow what enters it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

from atrous.analysis.counts import count_text
from atrous.analysis.explain import Explanation, Stage, explain, field_text
from atrous.models import MODELS

REPRESENTATIVES = (
    "fcn_8s.vgg16",
    "segnet.vgg16",
    "unet.valid",
    "dilation8.vgg16",
    "deeplab_v1.vgg16",
    "deeplab_v2.resnet101",
    "crf_rnn.vgg16",
    "refinenet.resnet101",
    "pspnet.resnet101",
    "gcn.resnet152",
    "deeplab_v3.resnet101",
    "deeplab_v3_cascade.resnet101_beta",
    "deeplab_v3_plus.xception65",
)

BOX, GAP = (138, 56), (30, 34)
LEFT, TOP = 92, 80
FONT = "font-family='Helvetica, Arial, sans-serif'"
INK, SOFT, LINE = "#1f2933", "#66788a", "#8595a5"
BACKBONE, HEAD, END = ("#e3eefb", "#4b84c4"), ("#fdeedb", "#d9892b"), ("#e2f4e6", "#3f9a58")
DILATED = "#b3261e"


@dataclass(frozen=True)
class Place:
    """Where a box stands: its column and its row."""

    column: int
    row: int

    @property
    def left(self) -> int:
        return LEFT + self.column * (BOX[0] + GAP[0])

    @property
    def top(self) -> int:
        return TOP + self.row * (BOX[1] + GAP[1])

    @property
    def right(self) -> int:
        return self.left + BOX[0]

    @property
    def bottom(self) -> int:
        return self.top + BOX[1]

    @property
    def middle(self) -> tuple[int, int]:
        return self.left + BOX[0] // 2, self.top + BOX[1] // 2


def arranged(stages: tuple[Stage, ...]) -> tuple[list[int], dict[int, Place]]:
    """The strides, one a row, and the place of each stage and of the image (-1): beside what enters it, or below it."""
    strides = sorted({1, *(stage.stride for stage in stages)})
    places = {-1: Place(0, 0)}
    for index, stage in enumerate(stages):
        row = strides.index(stage.stride)
        column = max(places[source].column + (places[source].row == row) for source in stage.inputs)
        while not _fits(Place(column, row), [places[source] for source in stage.inputs], places):
            column += 1
        places[index] = Place(column, row)
    return strides, places


def _fits(place: Place, sources: list[Place], places: dict[int, Place]) -> bool:
    """The cell is free, and so is the column between it and each source above or below."""
    taken = set(places.values())
    for source in sources:
        if source.column == place.column:
            low, high = sorted((source.row, place.row))
            if any(Place(place.column, row) in taken for row in range(low + 1, high)):
                return False
    return place not in taken


def arrow(source: Place, target: Place, taken: set[Place]) -> str:
    """The way from one box to another, in right angles with round corners."""
    if source.column == target.column:
        x = source.middle[0]
        down = target.row > source.row
        return f"M{x},{source.bottom if down else source.top} V{target.top - 5 if down else target.bottom + 5}"
    y, end = source.middle[1], target.middle[1]
    between = [Place(column, source.row) for column in range(source.column + 1, target.column)]
    gutter = target.left - GAP[0] // 2
    if not any(place in taken for place in between):
        return _path([(source.right, y), (gutter, y), (gutter, end), (target.left - 5, end)])
    over = source.top - GAP[1] // 2
    start = source.right + GAP[0] // 3
    return _path(
        [(source.right, y - 12), (start, y - 12), (start, over), (gutter, over), (gutter, end), (target.left - 5, end)]
    )


def _path(points: list[tuple[int, int]], radius: int = 6) -> str:
    """A line through the points, its corners rounded."""
    drawn = f"M{points[0][0]},{points[0][1]}"
    for (ax, ay), (bx, by), (cx, cy) in zip(points, points[1:], points[2:], strict=False):
        r = min(radius, (abs(bx - ax) + abs(by - ay)) // 2, (abs(cx - bx) + abs(cy - by)) // 2)
        before = bx - r * _sign(bx - ax), by - r * _sign(by - ay)
        behind = bx + r * _sign(cx - bx), by + r * _sign(cy - by)
        drawn += f" L{before[0]},{before[1]} Q{bx},{by} {behind[0]},{behind[1]}"
    return f"{drawn} L{points[-1][0]},{points[-1][1]}"


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def text(x: float, y: float, words: str, *, size: int = 11, color: str = INK, extra: str = "") -> str:
    return f"<text x='{x}' y='{y}' font-size='{size}' fill='{color}' {extra}>{escape(words)}</text>"


def box(stage: Stage, place: Place) -> str:
    """Name, channels and dilations, receptive field and cost."""
    backbone = "backbone." in stage.name
    fill, edge = BACKBONE if backbone else END if stage.name == "(output)" else HEAD
    name = stage.name.rpartition("backbone.")[2] if backbone else stage.name.removeprefix("network.")
    name = "logits" if name == "(output)" else name
    dilations = [dilation for dilation in stage.dilations if dilation > 1]
    x = place.left + 9
    lines = [
        f"<rect x='{place.left}' y='{place.top}' width='{BOX[0]}' height='{BOX[1]}' rx='6' fill='{fill}' "
        f"stroke='{edge}' stroke-width='{2 if dilations else 1.2}'/>",
        text(x, place.top + 17, name, size=12, extra="font-weight='600'"),
        text(x, place.top + 33, f"{stage.shape[0]} ch"),
        text(x, place.top + 48, f"sees {field_text(stage.receptive_field)}", size=10, color=SOFT),
    ]
    end = "text-anchor='end'"
    if dilations:
        rates = " · ".join(map(str, dilations))
        lines.append(text(place.right - 7, place.top + 17, f"rate {rates}", size=10, color=DILATED, extra=end))
    if stage.multiply_adds and stage.name != "(output)":
        cost = count_text(stage.multiply_adds)
        lines.append(text(place.right - 7, place.top + 48, cost, size=10, color=SOFT, extra=end))
    return "\n".join(lines)


def svg(name: str, told: Explanation) -> str:
    strides, places = arranged(told.stages)
    taken = set(places.values())
    columns = 1 + max(place.column for place in taken)
    width = LEFT + columns * (BOX[0] + GAP[0])
    height = TOP + len(strides) * (BOX[1] + GAP[1]) + 4
    paper = MODELS.entry(name).paper
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}' "
        f"{FONT} role='img' aria-label='{escape(name)}'>",
        f"<title>{escape(name)}: {escape(paper.title)}</title>",
        "<defs><marker id='tip' viewBox='0 0 8 8' refX='4' refY='4' markerWidth='7' markerHeight='7' "
        f"orient='auto'><path d='M0,0.5 L8,4 L0,7.5 z' fill='{LINE}'/></marker></defs>",
        f"<rect width='{width}' height='{height}' rx='8' fill='#ffffff'/>",
        text(16, 25, name, size=16, extra="font-weight='700'"),
        text(
            16,
            43,
            f"{paper.short}, {paper.year} · {told.parameters / 1e6:.2f} M parameters, "
            f"{count_text(told.multiply_adds)} multiply-adds at {told.size[0]} x {told.size[1]}",
            color=SOFT,
        ),
    ]
    for row, stride in enumerate(strides):
        y = Place(0, row).middle[1]
        top = Place(0, row).top
        if row % 2 == 0:
            parts.append(
                f"<rect x='8' y='{top - 12}' width='{width - 16}' height='{BOX[1] + 24}' rx='6' fill='#f6f8fa'/>"
            )
        parts.append(text(16, y + 4, f"stride {stride}", color=SOFT))
    for index, stage in enumerate(told.stages):
        for source in stage.inputs:
            line = arrow(places[source], places[index], taken)
            parts.append(f"<path d='{line}' fill='none' stroke='{LINE}' stroke-width='1.5' marker-end='url(#tip)'/>")
    image = places[-1]
    x, y = image.middle
    parts += [
        f"<rect x='{image.left}' y='{image.top}' width='{BOX[0]}' height='{BOX[1]}' rx='6' fill='#ffffff' "
        f"stroke='{SOFT}' stroke-dasharray='4 3'/>",
        text(x, y + 4, "image", size=12, extra="text-anchor='middle' font-weight='600'"),
    ]
    parts += [box(stage, places[index]) for index, stage in enumerate(told.stages)]
    return "\n".join([*parts, "</svg>"]) + "\n"


def main(names: list[str]) -> None:
    folder = Path(__file__).parent / "diagrams"
    folder.mkdir(exist_ok=True)
    for name in names or REPRESENTATIVES:
        (folder / f"{name}.svg").write_text(svg(name, explain(name)), encoding="utf-8")
        print(folder / f"{name}.svg")


if __name__ == "__main__":
    main(sys.argv[1:])
