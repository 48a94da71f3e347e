"""`atrous predict`: photographs in, segmentations out."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atrous.errors import AtrousError

if TYPE_CHECKING:
    from rich.console import Console

    from atrous.inference import Segmentation, Segmenter

DEFAULT_WEIGHTS = "deeplab_v3.mobilenet_v2_x0.5.voc"


def predict(
    images: Annotated[
        list[str], typer.Argument(help="Image files, folders of them, or quoted patterns such as 'a/*.jpg'.")
    ],
    weights: Annotated[
        str, typer.Option("--weights", "-w", help="An id (see `atrous weights`) or a file of weights.")
    ] = DEFAULT_WEIGHTS,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to; made if it does not exist.")] = Path(
        "out"
    ),
    output_stride: Annotated[
        int | None, typer.Option(help="Run the network at this stride instead of its own: 8 is denser and slower.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto takes the fastest there is.")] = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per image instead of a table.")
    ] = False,
) -> None:
    """Segment photographs: per image a label map (palette PNG) and an overlay to look at.

    Examples:

      atrous predict cat.jpg

      atrous predict photos/ 'more/*.png' -w deeplab_v3.mobilenet_v2.voc -o segmented

      atrous predict street.jpg -w runs/best.safetensors --output-stride 8 --json
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from atrous.files import check_writable
    from atrous.inference import Segmenter

    jobs = plan(images, out)
    check_writable(out)
    segmenter = Segmenter.load(weights, device=device)
    if output_stride is not None:
        segmenter.model.set_output_stride(output_stride)
    console, notes = Console(), Console(stderr=True)
    failures: list[AtrousError] = []
    done = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notes, transient=True, disable=len(jobs) < 2) as progress:
        task = progress.add_task("segmenting", total=len(jobs))
        try:
            for source, target in jobs:
                try:
                    report(console, _segment(segmenter, source, target), as_json=as_json)
                    done += 1
                except AtrousError as error:
                    if len(jobs) == 1:
                        raise
                    failures.append(error)
                progress.advance(task)
        except KeyboardInterrupt:
            notes.print(f"stopped after {done} of {len(jobs)} images; those lie in {out}", style="yellow")
            raise typer.Exit(130) from None
    if failures:
        listed = "\n".join(f"  {failure}" for failure in failures)
        raise AtrousError(
            f"{len(failures)} of {len(jobs)} images could not be segmented, the others are in {out}:\n{listed}"
        )


def plan(images: list[str], out: Path) -> list[tuple[Path, Path]]:
    """The images that were meant, and the label map each will be written to; no two to the same place.

    Folders keep their inner structure. Two images of the same name are told apart by their endings or a number.

    Raises: `AtrousError` for a folder or pattern without images, or a result that would overwrite an image.
    """
    sources = [pair for given in images for pair in _expand(given)]
    taken: set[Path] = set()
    jobs = []
    for source, relative in dict(sources).items():
        names = [relative.with_suffix(".png"), relative.with_name(f"{relative.stem}_{relative.suffix[1:]}.png")]
        number = 2
        while names[0] in taken:
            names = [*names[1:], relative.with_name(f"{relative.stem}_{number}.png")]
            number += 1
        taken.add(names[0])
        jobs.append((source, out / names[0]))
    read = {source.resolve() for source, _ in jobs}
    for source, target in jobs:
        if target.resolve() in read:
            raise AtrousError(f"{source}: its result {target} would overwrite an image; choose another folder with -o.")
    return jobs


def _expand(given: str) -> list[tuple[Path, Path]]:
    """Image files, each with its path relative to what was given."""
    import glob

    from atrous.data.images import SUFFIXES

    path = Path(given)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not found:
            raise AtrousError(f"{path}: the folder holds no images ({', '.join(SUFFIXES)}).")
        return [(p, p.relative_to(path)) for p in found]
    if not path.exists() and glob.has_magic(given):
        matches = sorted(Path(match) for match in glob.glob(given, recursive=True))
        if not matches:
            raise AtrousError(f"'{given}' matches no file.")
        return [(match, Path(match.name)) for match in matches if match.is_file()]
    return [(path, Path(path.name))]


def _segment(segmenter: Segmenter, source: Path, target: Path) -> dict[str, Any]:
    start = time.perf_counter()
    found: Segmentation = segmenter(source)
    seconds = time.perf_counter() - start
    labels, overlay = found.save(target)
    height, width = found.labels.shape
    return {
        "image": str(source),
        "labels": str(labels),
        "overlay": str(overlay),
        "width": width,
        "height": height,
        "seconds": round(seconds, 3),
        "classes": {name: round(share, 4) for name, share in found.shares().items()},
    }


def report(console: Console, result: dict[str, Any], *, as_json: bool) -> None:
    """One image's result as a line for people, or as a line of JSON."""
    if as_json:
        typer.echo(json.dumps(result))
        return
    found = ", ".join(f"[bold]{name}[/] {share:.1%}" for name, share in result["classes"].items())
    console.print(f"{result['image']}: {found}  [dim]({result['seconds']:.2f} s)[/]")
    console.print(f"  [dim]->[/] {result['overlay']}", soft_wrap=True)
