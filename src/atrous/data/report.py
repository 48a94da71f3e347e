"""Write an inspection as a self-contained HTML file."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
from PIL import Image

from atrous.data.inspect import Inspection, Problem
from atrous.imaging.io import Pixels
from atrous.marks import Mark

MARK = Mark("inspect")
"""The mark in the files of a report."""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="generator" content="{mark}">
<meta name="viewport" content="width=device-width">
<title>{title}</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .2rem .6rem; border-bottom: 1px solid #8884; }}
.n {{ text-align: right; font-variant-numeric: tabular-nums; }}
.patch {{ display: inline-block; width: .9em; height: .9em; border: 1px solid #888; vertical-align: -.1em; }}
.bar {{ display: block; height: .8em; min-width: 1px; }}
.error, .warning {{ border-left: 4px solid #d33; padding-left: .6rem; }} .warning {{ border-color: #c90; }}
li {{ margin: .3rem 0; list-style: none; overflow-wrap: anywhere; }} ul {{ padding: 0; }} img {{ max-width: 100%; }}
</style></head><body>
<h1>{title}</h1>
<p>{summary}</p>
<h2>{verdict}</h2>
<ul>{problems}</ul>
<h2>Samples</h2>
{sheet}
<h2>Classes</h2>
<p>Pixels and images of all splits. Frequency: pixels of the class over all pixels of the images that contain it, in
<b>{weights_split}</b>; weight: the median of the frequencies over that of the class.</p>
<table><tr><th class="n">label<th>class<th class="n">pixels<th style="width:25%">share<th class="n">images
<th class="n">frequency<th class="n">weight</tr>
{classes}
</table>
<h2>Sizes</h2><table><tr><th>width x height<th class="n">images</tr>{sizes}</table>
<h2>Masks</h2><table><tr><th>stored as<th class="n">masks</tr>{storage}</table>
</body></html>
"""


def write_html(inspection: Inspection, sheet: Pixels | None) -> str:
    """Format an inspection as HTML, with the contact sheet embedded; names of files and classes are escaped."""
    content = inspection.to_json()
    problems = "".join(
        f'<li class="{problem.severity}">{escape(problem.message)}{_list_files(problem)}</li>'
        for problem in (*inspection.errors, *inspection.warnings)
    )
    errors = len(inspection.errors)
    splits = ", ".join(f"{name} {count:,}" for name, count in content["splits"].items())
    return _PAGE.format(
        mark=MARK,
        title=escape(f"{content['dataset']}: {splits}"),
        summary=escape(f"{len(inspection.classes)} classes, {content['ignored_pixels']:,} pixels ignored."),
        verdict=f"{errors} error{'s' * (errors != 1)}" if errors else "No errors",
        problems=problems or "<li>No warnings.</li>",
        sheet=_embed(sheet) if sheet is not None else "<p>No sample is readable.</p>",
        weights_split=escape(inspection.weights_split),
        classes="\n".join(_class_rows(inspection)),
        sizes="".join(
            f'<tr><td>{width} x {height}<td class="n">{count:,}</tr>'
            for (width, height), count in inspection.sizes().most_common(50)
        ),
        storage="".join(
            f'<tr><td>{escape(kind)}<td class="n">{count:,}</tr>'
            for kind, count in inspection.mask_formats().most_common()
        ),
    )


def _list_files(problem: Problem) -> str:
    if not problem.files:
        return ""
    listed = "<br>".join(map(escape, problem.files))
    return f"<details><summary>{len(problem.files):,} masks</summary>{listed}</details>"


def _class_rows(inspection: Inspection) -> list[str]:
    total, first = inspection.statistics(), inspection.statistics(inspection.weights_split)
    shares = total.pixels / max(1, int(total.pixels.sum()))
    rows = []
    for label, (name, color) in enumerate(zip(inspection.classes, inspection.datasets[0].colors, strict=True)):
        frequency, weight = first.frequencies()[label], first.median_frequency_weights()[label]
        numbers = ("", "") if np.isnan(weight) else (f"{frequency:.4f}", f"{weight:.4f}")
        style = f"background:rgb{color}"
        rows.append(
            f'<tr><td class="n">{label}<td><span class="patch" style="{style}"></span> {escape(name)}'
            f'<td class="n">{total.pixels[label]:,}'
            f'<td><span class="bar" style="{style};width:{shares[label]:.2%}" title="{shares[label]:.2%}"></span>'
            f'<td class="n">{total.images[label]:,}<td class="n">{numbers[0]}<td class="n">{numbers[1]}</tr>'
        )
    return rows


def _embed(image: Pixels) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=88)
    return f'<img alt="samples" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
