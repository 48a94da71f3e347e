"""`atrous predict`: segment images and videos."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atrous.cli.crf import CRF
from atrous.cli.options import (
    TTA,
    Device,
    Engine,
    MaxPixels,
    OutputStride,
    Precision,
    Tile,
    load_segmenter,
)
from atrous.cli.predict_images import describe_finished, print_result, segment_images
from atrous.cli.predict_jobs import (
    check_outputs,
    note_coordinates,
    plan_formats,
    plan_geo_options,
    plan_images,
    plan_videos,
)
from atrous.cli.predict_videos import is_video, segment_video_job
from atrous.cli.scale import Address, NumCpus, NumGpus, Ray, Workers, cluster_resources, run_with_report
from atrous.console import print_line
from atrous.errors import AtrousError
from atrous.inference.jobs import ImageJob, is_finished, merge_annotations

if TYPE_CHECKING:
    from collections.abc import Mapping


DEFAULT_WEIGHTS = "deeplab_v3_plus.efficientnet_lite0.camvid"
"""Weights that come with the package, trained on street scenes."""
EVERYDAY_WEIGHTS = "deeplab_v3.mobilenet_v2.voc"
"""Weights for people, animals, vehicles and furniture."""


def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders, quoted patterns such as 'a/*.jpg', web addresses, - for standard input, video "
            "files, or the number of a camera.",
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            help=f"An id (see `atrous weights`) or a file; by default {DEFAULT_WEIGHTS}, for street scenes.",
        ),
    ] = None,
    out: Annotated[
        str,
        typer.Option("--out", "-o", help="The folder to write to, created if necessary; with --ray an address, too."),
    ] = "out",
    output_stride: OutputStride = None,
    tta: TTA = "none",
    tile: Tile = None,
    crf: CRF = None,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="What to write, separated by commas: png (labels), overlay, coco, geojson, labelme, npz "
            "(probabilities); by default png,overlay. Georeferenced images: geotiff, geojson. Videos: overlay, or png "
            "for the labels of each frame as well.",
        ),
    ] = None,
    polygons: Annotated[
        bool, typer.Option("--polygons", help="Write COCO annotations as polygons instead of run lengths.")
    ] = False,
    simplify: Annotated[
        float,
        typer.Option(
            help="Tolerance in pixels for the borders of polygons, such as 1; at 0 they follow the edges of pixels."
        ),
    ] = 0.0,
    bands: Annotated[
        str | None,
        typer.Option(
            help="Bands of a GeoTIFF for red, green and blue, such as 4,3,2, or one; by default those named so."
        ),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(
            help="Values of a GeoTIFF that become black and white, such as 0,10000; by default those of 8 bits stay, "
            "and of others the 2nd and 98th percentile of each band is taken."
        ),
    ] = None,
    wgs84: Annotated[
        bool,
        typer.Option(
            "--wgs84", help="Write GeoJSON of a GeoTIFF in longitude and latitude instead of its own coordinates."
        ),
    ] = False,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities",
            help="Write npz as well: the network's class probabilities as 16-bit floats, which `atrous crf` reads.",
        ),
    ] = False,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Fetch images from addresses of private networks as well.")
    ] = False,
    smooth: Annotated[
        float, typer.Option(help="Temporal smoothing of videos, from 0 (off) to below 1; 0.7 removes flicker.")
    ] = 0.0,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    max_pixels: MaxPixels = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per image instead of text.")] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Segment images again that are finished, and replace existing files that are not results of the same "
            "images.",
        ),
    ] = False,
    ray: Ray = False,
    address: Address = None,
    workers: Workers = None,
    num_cpus: NumCpus = 1,
    num_gpus: NumGpus = None,
) -> None:
    """Segment images and videos: write label maps (palette PNG) and overlays (PNG, or MP4 for videos), or annotations.

    Images of a folder that were segmented before with the same settings are skipped.

    Examples:

      atrous predict street.jpg

      atrous predict cat.jpg photos/ 'more/*.png' -w deeplab_v3.mobilenet_v2.voc -o segmented

      atrous predict street.jpg -w runs/best.safetensors --output-stride 8 --tta v3 --json

      atrous predict street.jpg --crf

      atrous predict https://example.org/street.jpg

      atrous predict satellite.tif --tile 513 --max-pixels 1000000000

      atrous predict photos/ --format png,overlay,coco,geojson,labelme --simplify 1

      atrous predict scene.tif --format geotiff,geojson --bands 4,3,2 --scale 0,3000

      atrous predict clip.mp4 --smooth 0.7 --format png

      atrous predict s3://bucket/photos -o s3://bucket/labels --ray --address auto
    """
    from atrous import __version__
    from atrous.files import check_writable
    from atrous.inference.formats import FormatOptions
    from atrous.inference.video import TemporalSmoother
    from atrous.weights import find_weights
    from atrous.weights.importers.formats import list_files

    videos = [source for source in images if is_video(source)]
    others = [source for source in images if source not in videos]
    resources = cluster_resources(ray, address, workers, num_cpus, num_gpus)
    image_formats = plan_formats(formats, videos, probabilities=probabilities)
    FormatOptions(simplify=simplify)  # checks the option before anything is loaded
    if crf is not None:
        _check_crf(crf, videos)
    if resources is not None and videos:
        raise AtrousError(f"{videos[0]}: --ray segments images, not videos; leave out --ray.")
    TemporalSmoother(smooth)  # checks the option before anything is loaded
    path = find_weights(weights or DEFAULT_WEIGHTS)
    settings = {
        "weights": [
            value
            for file in list_files(path)
            for value in (str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns)
        ],
        "tta": tta,
        "tile": tile,
        "crf": crf,
        "output_stride": output_stride,
        "engine": engine,
        "precision": precision,
        "format_options": {"polygons": polygons, "simplify": simplify},
        "geo_options": plan_geo_options(bands, scale, simplify=simplify, wgs84=wgs84, formats=image_formats),
        "version": __version__,
    }
    if resources is not None:
        from atrous.scale.predict import NetworkOptions
        from atrous.scale.predict import predict as predict_on_cluster

        network = NetworkOptions(device, tta, tile, output_stride, engine, precision)
        run = partial(predict_on_cluster, others, out, path, settings, network, formats=image_formats)
        run_with_report(
            partial(run, allow_private=allow_private),
            *("segmenting", out),
            address=address,
            resources=resources,
            overwrite=overwrite,
            as_json=as_json,
        )
        return
    if "://" in out:
        raise AtrousError(f"{out}: not a folder of this machine; add --ray to write to an address.")
    folder = Path(out)
    image_jobs = plan_images(others, folder, formats=image_formats, allow_private=allow_private)
    video_jobs = plan_videos(videos, folder, labels=formats is not None and "png" in image_formats)
    check_writable(folder)
    check_outputs([*image_jobs, *video_jobs], folder, overwrite=overwrite)
    if formats is None:
        note_coordinates(image_jobs)
    finished = [] if overwrite else _select_finished(image_jobs, settings)
    skipped = set(finished)
    all_jobs, image_jobs = image_jobs, [job for job in image_jobs if job not in skipped]
    if not image_jobs and not video_jobs and not as_json:
        merge_annotations(all_jobs, folder, settings)
        return
    segmenter = load_segmenter(
        weights or DEFAULT_WEIGHTS,
        device=device,
        tta=tta,
        tile=tile,
        output_stride=output_stride,
        engine=engine,
        precision=precision,
        throughput=len(image_jobs) > 1 or bool(videos),
    )
    if weights is None:
        _describe_default(segmenter.card.classes)
    for video_job in video_jobs:
        segment_video_job(segmenter, video_job, smooth, as_json=as_json)
    if as_json:
        for job in finished:
            print_result(describe_finished(segmenter, job), as_json=True)
    try:
        if image_jobs:
            segment_images(segmenter, image_jobs, folder, settings, as_json=as_json)
    finally:  # of the finished images, also where others failed
        merge_annotations(all_jobs, folder, settings)


def _describe_default(classes: tuple[str, ...]) -> None:
    """Tell which classes the default weights know, and which weights know everyday things."""
    from atrous.weights.find import describe_weights

    info = describe_weights(EVERYDAY_WEIGHTS)
    size = f", which downloads {info.release.megabytes:.0f} MB" if info.path is None and info.release else ""
    print_line(
        "[dim]The default weights know street scenes only: {}. For people, animals and furniture: -w {}{}.[/]",
        *(", ".join(classes), EVERYDAY_WEIGHTS, size),
        stderr=True,
    )


def _select_finished(jobs: list[ImageJob], settings: Mapping[str, Any]) -> list[ImageJob]:
    """Select the images of a folder that an earlier run has segmented; a single image is always segmented."""
    finished = [job for job in jobs if is_finished(job, settings)] if len(jobs) > 1 else []
    if finished:
        typer.echo(
            f"{len(finished)} of {len(jobs)} images were segmented before with these settings and are skipped; "
            "--overwrite segments them again.",
            err=True,
        )
    return finished


def _check_crf(preset: str, videos: list[str]) -> None:
    from atrous.crf import get_preset

    get_preset(preset)
    if videos:
        raise AtrousError(f"{videos[0]}: the CRF refines images, not videos; leave out --crf.")
