"""Draw a diagram of each architecture from its `explain` summary, so that diagrams always match the code.

    python docs/draw_diagrams.py            all of them, into docs/diagrams
    python docs/draw_diagrams.py pspnet.resnet50 deeplab_v3.resnet50

Rows are output strides, the finest on top. Boxes are stages with their receptive field and multiply-adds; arrows are
their inputs.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

from atrous.analysis.counts import format_count
from atrous.analysis.explain import ModelSummary, StageSummary, explain, format_field
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

BOX, GAP = (164, 56), (30, 34)
LEFT, TOP = 92, 80
FONT = "font-family='Helvetica, Arial, sans-serif'"
TEXT, GRAY, LINE = "#1f2933", "#66788a", "#8595a5"
BACKBONE, HEAD, OUTPUT = ("#e3eefb", "#4b84c4"), ("#fdeedb", "#d9892b"), ("#e2f4e6", "#3f9a58")
DILATED = "#b3261e"


@dataclass(frozen=True)
class Cell:
    """Position of a box: column and row of the grid."""

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


def arrange(stages: tuple[StageSummary, ...]) -> tuple[list[int], dict[int, Cell]]:
    """Assign a cell to each stage and to the image (-1), next to or below its inputs; return row strides and cells."""
    strides = sorted({1, *(stage.stride for stage in stages)})
    cells = {-1: Cell(0, 0)}
    for index, stage in enumerate(stages):
        row = strides.index(stage.stride)
        column = max(cells[source].column + (cells[source].row == row) for source in stage.inputs)
        while not _fits(Cell(column, row), [cells[source] for source in stage.inputs], cells):
            column += 1
        cells[index] = Cell(column, row)
    return strides, cells


def _fits(cell: Cell, sources: list[Cell], cells: dict[int, Cell]) -> bool:
    """Check that a cell is free, and so is the column between it and every source in the same column."""
    taken = set(cells.values())
    for source in sources:
        if source.column == cell.column:
            low, high = sorted((source.row, cell.row))
            if any(Cell(cell.column, row) in taken for row in range(low + 1, high)):
                return False
    return cell not in taken


def arrow(source: Cell, target: Cell, taken: set[Cell]) -> str:
    """Draw the SVG path from one box to another, in right angles with round corners."""
    if source.column == target.column:
        x = source.middle[0]
        down = target.row > source.row
        return f"M{x},{source.bottom if down else source.top} V{target.top - 5 if down else target.bottom + 5}"
    y, end = source.middle[1], target.middle[1]
    between = [Cell(column, source.row) for column in range(source.column + 1, target.column)]
    gutter = target.left - GAP[0] // 2
    if not any(cell in taken for cell in between):
        return _path([(source.right, y), (gutter, y), (gutter, end), (target.left - 5, end)])
    over = source.top - GAP[1] // 2
    start = source.right + GAP[0] // 3
    return _path(
        [(source.right, y - 12), (start, y - 12), (start, over), (gutter, over), (gutter, end), (target.left - 5, end)]
    )


def _path(points: list[tuple[int, int]], radius: int = 6) -> str:
    """Draw an SVG path through points with rounded corners."""
    path = f"M{points[0][0]},{points[0][1]}"
    for (ax, ay), (bx, by), (cx, cy) in zip(points, points[1:], points[2:], strict=False):
        r = min(radius, (abs(bx - ax) + abs(by - ay)) // 2, (abs(cx - bx) + abs(cy - by)) // 2)
        before = bx - r * _sign(bx - ax), by - r * _sign(by - ay)
        behind = bx + r * _sign(cx - bx), by + r * _sign(cy - by)
        path += f" L{before[0]},{before[1]} Q{bx},{by} {behind[0]},{behind[1]}"
    return f"{path} L{points[-1][0]},{points[-1][1]}"


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def text(x: float, y: float, words: str, *, size: int = 11, color: str = TEXT, extra: str = "") -> str:
    """Draw a line of text."""
    return f"<text x='{x}' y='{y}' font-size='{size}' fill='{color}' {extra}>{escape(words)}</text>"


def box(stage: StageSummary, cell: Cell) -> str:
    """Draw the box of a stage: name, channels, dilations, receptive field and multiply-adds."""
    backbone = "backbone." in stage.name
    fill, edge = BACKBONE if backbone else OUTPUT if stage.name == "(output)" else HEAD
    name = stage.name.rpartition("backbone.")[2] if backbone else stage.name.removeprefix("network.")
    name = "logits" if name == "(output)" else name
    dilations = [dilation for dilation in stage.dilations if dilation > 1]
    x = cell.left + 9
    lines = [
        f"<rect x='{cell.left}' y='{cell.top}' width='{BOX[0]}' height='{BOX[1]}' rx='6' fill='{fill}' "
        f"stroke='{edge}' stroke-width='{2 if dilations else 1.2}'/>",
        text(x, cell.top + 17, name, size=12, extra="font-weight='600'"),
        text(x, cell.top + 33, f"{stage.shape[0]} ch"),
        text(x, cell.top + 48, f"receptive field {format_field(stage.receptive_field)}", size=10, color=GRAY),
    ]
    end = "text-anchor='end'"
    if dilations:
        rates = " · ".join(map(str, dilations))
        lines.append(text(cell.right - 7, cell.top + 17, f"rate {rates}", size=10, color=DILATED, extra=end))
    if stage.multiply_adds and stage.name != "(output)":
        cost = format_count(stage.multiply_adds)
        lines.append(text(cell.right - 7, cell.top + 48, cost, size=10, color=GRAY, extra=end))
    return "\n".join(lines)


def svg(name: str, summary: ModelSummary) -> str:
    """Draw the diagram of a network as SVG text."""
    strides, cells = arrange(summary.stages)
    taken = set(cells.values())
    columns = 1 + max(cell.column for cell in taken)
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
            f"{paper.short}, {paper.year} · {summary.parameters / 1e6:.2f} M parameters, "
            f"{format_count(summary.multiply_adds)} multiply-adds at {summary.size[0]} x {summary.size[1]}",
            color=GRAY,
        ),
    ]
    for row, stride in enumerate(strides):
        y = Cell(0, row).middle[1]
        top = Cell(0, row).top
        if row % 2 == 0:
            parts.append(
                f"<rect x='8' y='{top - 12}' width='{width - 16}' height='{BOX[1] + 24}' rx='6' fill='#f6f8fa'/>"
            )
        parts.append(text(16, y + 4, f"stride {stride}", color=GRAY))
    for index, stage in enumerate(summary.stages):
        for source in stage.inputs:
            line = arrow(cells[source], cells[index], taken)
            parts.append(f"<path d='{line}' fill='none' stroke='{LINE}' stroke-width='1.5' marker-end='url(#tip)'/>")
    image = cells[-1]
    x, y = image.middle
    parts += [
        f"<rect x='{image.left}' y='{image.top}' width='{BOX[0]}' height='{BOX[1]}' rx='6' fill='#ffffff' "
        f"stroke='{GRAY}' stroke-dasharray='4 3'/>",
        text(x, y + 4, "image", size=12, extra="text-anchor='middle' font-weight='600'"),
    ]
    parts += [box(stage, cells[index]) for index, stage in enumerate(summary.stages)]
    return "\n".join([*parts, "</svg>"]) + "\n"


def main(names: list[str]) -> None:
    """Draw the given networks, or all of `REPRESENTATIVES`, into docs/diagrams."""
    folder = Path(__file__).parent / "diagrams"
    folder.mkdir(exist_ok=True)
    for name in names or REPRESENTATIVES:
        (folder / f"{name}.svg").write_text(svg(name, explain(name)), encoding="utf-8")
        print(folder / f"{name}.svg")


if __name__ == "__main__":
    main(sys.argv[1:])
