"""`atrous predict`: photographs and videos in, segmentations out."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atrous.cli.crf import PRESETS
from atrous.errors import AtrousError

if TYPE_CHECKING:
    from rich.console import Console

    from atrous.imaging.io import Pixels
    from atrous.inference import Segmentation, Segmenter

PRUNE = 0.01
"""The probability that a class has to exceed somewhere to take part in the CRF."""

DEFAULT_WEIGHTS = "deeplab_v3_plus.efficientnet_lite0.camvid"
"""Our own, which come with the package: streets."""


def predict(
    images: Annotated[
        list[str],
        typer.Argument(help="Image files, folders of them, quoted patterns such as 'a/*.jpg', videos, cameras: 0."),
    ],
    weights: Annotated[
        str,
        typer.Option("--weights", "-w", help="An id (see `atrous weights`) or a file; by default our own, of streets."),
    ] = DEFAULT_WEIGHTS,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to; made if it does not exist.")] = Path(
        "out"
    ),
    output_stride: Annotated[
        int | None, typer.Option(help="Run the network at this stride instead of its own: 8 is denser and slower.")
    ] = None,
    tta: Annotated[
        str, typer.Option(help="Look more than once, as a paper does: flip, v2, v3, v3_plus, pspnet, refinenet.")
    ] = "none",
    tile: Annotated[
        int | None, typer.Option(help="Look in windows of this side at the image's own scale, whatever its size.")
    ] = None,
    crf: Annotated[
        str | None,
        typer.Option(
            metavar="[PRESET]", help=f"Refine images by the fully connected CRF: {', '.join(PRESETS)}; or v2."
        ),
    ] = None,
    smooth: Annotated[
        float, typer.Option(help="Of videos: how much of the past each frame keeps, 0 to below 1; 0.7 stops flicker.")
    ] = 0.0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto takes the fastest there is.")] = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per image instead of a table.")
    ] = False,
) -> None:
    """Segment photographs: per image a label map (palette PNG) and an overlay to look at; of videos an overlay (MP4).

    Examples:

      atrous predict street.jpg

      atrous predict cat.jpg photos/ 'more/*.png' -w deeplab_v3.mobilenet_v2.voc -o segmented

      atrous predict street.jpg -w runs/best.safetensors --output-stride 8 --tta v3 --json

      atrous predict street.jpg --crf

      atrous predict satellite.tif --tile 513

      atrous predict clip.mp4 --smooth 0.7
    """
    from atrous.files import check_writable
    from atrous.inference import Segmenter
    from atrous.inference.video import TemporalSmoother

    videos = [given for given in images if _is_video(given)]
    jobs = plan([given for given in images if given not in videos], out)
    check_writable(out)
    if crf is not None:
        _check_crf(crf, videos)
    TemporalSmoother(smooth)  # says what is wrong with it, if something is, before anything is loaded
    segmenter = Segmenter.load(weights, device=device, tta=tta, tile=tile)
    if output_stride is not None:
        segmenter.model.set_output_stride(output_stride)
    for given in dict.fromkeys(videos):
        alike = [other for other in dict.fromkeys(videos) if Path(other).stem == Path(given).stem]
        name = Path(given).stem if len(alike) == 1 else Path(given).name.replace(".", "_")
        target = out / (f"camera_{given}.mp4" if given.isdigit() else f"{name}_overlay.mp4")
        _segment_video(segmenter, given, target, smooth, as_json=as_json)
    if jobs:
        _segment_images(segmenter, jobs, out, crf, windows=tile is not None, as_json=as_json)


def _segment_images(
    segmenter: Segmenter,
    jobs: list[tuple[Path, Path]],
    out: Path,
    crf: str | None,
    *,
    windows: bool,
    as_json: bool,
) -> None:
    """Images are read ahead of the network and written behind it. What cannot be read is listed at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from atrous.inference.prefetch import BackgroundWorker, prefetch

    console, notes = Console(), Console(stderr=True)
    failures: list[AtrousError] = []
    done: list[Path] = []

    def write(source: Path, target: Path, found: Segmentation, seconds: float) -> None:
        try:
            report(console, _written(source, target, found, seconds), as_json=as_json)
            done.append(target)
        except AtrousError as error:
            failures.append(error)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    alone = len(jobs) == 1
    with Progress(*columns, console=notes, transient=True, disable=alone and not windows) as progress:
        task = progress.add_task("segmenting", total=len(jobs))
        if alone:
            segmenter.on_progress = lambda count, total: progress.update(task, completed=count, total=total)
        try:
            with BackgroundWorker() as worker:
                for source, target, pixels in prefetch((source, target, _read(source)) for source, target in jobs):
                    if isinstance(pixels, AtrousError):
                        failures.append(pixels)
                    else:
                        start = time.perf_counter()
                        found = segmenter(pixels) if crf is None else _refined(segmenter, pixels, crf)
                        worker.submit(write, source, target, found, time.perf_counter() - start)
                    if not alone:
                        progress.advance(task)
        except KeyboardInterrupt:
            notes.print(f"stopped after {len(done)} of {len(jobs)} images; those lie in {out}", style="yellow")
            raise typer.Exit(130) from None
    if failures and alone:
        raise failures[0]
    if failures:
        listed = "\n".join(f"  {failure}" for failure in failures)
        raise AtrousError(
            f"{len(failures)} of {len(jobs)} images could not be segmented, the others are in {out}:\n{listed}"
        )


def _check_crf(preset: str, videos: list[str]) -> None:
    from atrous.crf import preset as paper

    paper(preset)
    if videos:
        raise AtrousError(f"{videos[0]}: the CRF refines images, not videos; leave out --crf.")


def _refined(segmenter: Segmenter, pixels: Pixels, preset: str) -> Segmentation:
    """What the CRF makes of the probabilities; classes that are nowhere likely take no part."""
    from dataclasses import replace

    from atrous.crf import dense_crf_labels

    found = segmenter(pixels, probabilities=True)
    labels = dense_crf_labels(pixels, found.probabilities, preset=preset, prune=PRUNE)
    return replace(found, labels=labels.astype(found.labels.dtype), probabilities=None)


def _read(source: Path) -> Pixels | AtrousError:
    from atrous.imaging.io import read_image

    try:
        return read_image(source)
    except AtrousError as error:
        return error


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

    from atrous.imaging.io import IMAGE_SUFFIXES

    path = Path(given)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        if not found:
            raise AtrousError(f"{path}: the folder holds no images ({', '.join(IMAGE_SUFFIXES)}).")
        return [(p, p.relative_to(path)) for p in found]
    if not path.exists() and glob.has_magic(given):
        matches = sorted(Path(match) for match in glob.glob(given, recursive=True))
        if not matches:
            raise AtrousError(f"'{given}' matches no file.")
        return [(match, Path(match.name)) for match in matches if match.is_file()]
    return [(path, Path(path.name))]


def _is_video(given: str) -> bool:
    from atrous.inference.video import VIDEO_SUFFIXES

    return given.isdigit() or Path(given).suffix.lower() in VIDEO_SUFFIXES


def _segment_video(segmenter: Segmenter, given: str, target: Path, smooth: float, *, as_json: bool) -> None:
    """A file, or a camera by its number until Ctrl-C; says where the time went."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from atrous.inference.video import segment_video

    camera = given.isdigit()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("recording, Ctrl-C ends it" if camera else "segmenting", total=None)
        timing = segment_video(
            segmenter,
            int(given) if camera else Path(given),
            target,
            smooth=smooth,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if as_json:
        stages = {name: round(seconds, 3) for name, seconds in timing.stages.items()}
        found = {"video": given, "overlay": str(target), "frames": timing.frames, "seconds": round(timing.wall, 3)}
        typer.echo(json.dumps({**found, "stages": stages}))
        return
    console = Console()
    console.print(f"{given}: {timing}", soft_wrap=True)
    console.print(f"  [dim]->[/] {target}", soft_wrap=True)


def _written(source: Path, target: Path, found: Segmentation, seconds: float) -> dict[str, Any]:
    """What is told of an image, whose label map and overlay are written."""
    labels, overlay = found.save(target)
    height, width = found.labels.shape
    return {
        "image": str(source),
        "labels": str(labels),
        "overlay": str(overlay),
        "width": width,
        "height": height,
        "seconds": round(seconds, 3),
        "classes": {name: round(share, 4) for name, share in found.class_fractions().items()},
    }


def report(console: Console, result: dict[str, Any], *, as_json: bool) -> None:
    """One image's result as a line for people, or as a line of JSON."""
    if as_json:
        typer.echo(json.dumps(result))
        return
    found = ", ".join(f"[bold]{name}[/] {share:.1%}" for name, share in result["classes"].items())
    console.print(f"{result['image']}: {found}  [dim]({result['seconds']:.2f} s)[/]")
    console.print(f"  [dim]->[/] {result['overlay']}", soft_wrap=True)
