"""`atrous crf`: refine the probabilities of any network by the fully connected CRF, and search its parameters."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from atrous.cli.options import MaxPixels, Overwrite
from atrous.cli.scale import Address, NumCpus, NumGpus, Ray, Workers, cluster_resources, run_with_report
from atrous.console import print_line
from atrous.errors import AtrousError
from atrous.progress import progress_bar

if TYPE_CHECKING:
    from atrous.data.dataset import SegmentationDataset
    from atrous.evaluation.crf_search import SearchImage
    from atrous.inference.refine_jobs import RefineOptions


PRESETS = (
    "v1", "v2", "v2_resnet", "crf_rnn", "krahenbuhl", "v1_released", "v2_released", "v2_resnet_released",
)  # fmt: skip
"""The names of `atrous.crf.PRESETS`, repeated here so that `atrous --help` does not load numpy."""


class _RefineByDefault(TyperGroup):
    """Command group in which `atrous crf IMAGE ...` means `atrous crf refine IMAGE ...`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["refine", *args])


app = typer.Typer(
    name="crf",
    cls=_RefineByDefault,
    help="The fully connected CRF: `atrous crf IMAGE PROBABILITIES.npy -o OUT` refines, `atrous crf tune` searches.",
    no_args_is_help=True,
    add_completion=False,
)
CRF = Annotated[
    str | None,
    typer.Option(
        metavar="[PRESET]",
        help=f"Refine labels with the fully connected CRF of a paper: {', '.join(PRESETS)}; `--crf` alone means v2.",
    ),
]
Preset = Annotated[str, typer.Option(help=f"The parameters of a paper: {', '.join(PRESETS)}.")]


@app.command()
def refine(
    image: Annotated[str, typer.Argument(help="The image, or a folder of images; with --ray an address, too.")],
    probabilities: Annotated[
        str,
        typer.Argument(
            help="A .npy file, (classes, height, width), summing to 1, or a .npz of `atrous predict --probabilities`; "
            "for a folder of images the folder of such files, named as that command names them."
        ),
    ],
    out: Annotated[
        str, typer.Option("--out", "-o", help="The folder to write to; with --ray an address, too.")
    ] = "out",
    preset: Preset = "v2",
    w1: Annotated[float | None, typer.Option(help="Weight of the bilateral kernel, instead of the preset's.")] = None,
    sigma_alpha: Annotated[float | None, typer.Option(help="Width of the bilateral kernel in pixels.")] = None,
    sigma_beta: Annotated[
        float | None, typer.Option(help="Width of the bilateral kernel in color levels of 0..255.")
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Mean-field updates, instead of the preset's.")] = None,
    prune: Annotated[float, typer.Option(help="Leave out classes whose probability is nowhere above this.")] = 0.0,
    weights: Annotated[
        str | None, typer.Option("--weights", "-w", help="Weights with class names and colors for the output.")
    ] = None,
    keep: Annotated[bool, typer.Option("--probabilities", help="Write the refined probabilities as well.")] = False,
    max_pixels: MaxPixels = None,
    overwrite: Overwrite = False,
    ray: Ray = False,
    address: Address = None,
    workers: Workers = None,
    num_cpus: NumCpus = 1,
    num_gpus: NumGpus = None,
) -> None:
    """Refine class probabilities by the colors of the image: writes labels, and overlays before and after.

    Examples:

      atrous crf street.jpg street.npy -o out

      atrous crf street.jpg street.npy --preset v1 --sigma-alpha 70 --probabilities

      atrous crf photos/ probabilities/ -o refined

      atrous crf s3://bucket/photos s3://bucket/probabilities -o s3://bucket/refined --ray
    """
    from dataclasses import replace

    from atrous.crf import Bilateral, get_preset
    from atrous.inference.refine_jobs import RefineOptions
    from atrous.weights import read_card

    resources = cluster_resources(ray, address, workers, num_cpus, num_gpus)
    crf = get_preset(preset)
    parameters: dict[str, Any] = {"w": w1, "sigma_alpha": sigma_alpha, "sigma_beta": sigma_beta}
    bilateral = replace(
        crf.bilateral or Bilateral(), **{name: value for name, value in parameters.items() if value is not None}
    )
    options = RefineOptions(replace(crf, bilateral=bilateral), iterations, prune)
    if weights is not None:
        card = read_card(weights)
        options = replace(options, classes=card.classes, colors=card.colors)
    if resources is None:
        _refine_here(Path(image), Path(probabilities), Path(out), options, keep=keep, overwrite=overwrite)
        return
    from atrous.scale.refine import refine as refine_on_cluster

    run = partial(refine_on_cluster, image, probabilities, out, options, keep=keep)
    run_with_report(run, "refining", out, address=address, resources=resources, overwrite=overwrite, as_json=False)


def _refine_here(
    image: Path, probabilities: Path, out: Path, options: RefineOptions, *, keep: bool, overwrite: bool
) -> None:
    """Refine an image, or those of a folder, in this process.

    Raises: `AtrousError` for the image, or at the end for those of a folder that failed.
    """
    from atrous.files import DiskFullError, check_writable
    from atrous.inference.jobs import failure
    from atrous.inference.refine_jobs import SUFFIXES, RefineJob, pair_jobs, refine_image
    from atrous.inference.sources import expand_source
    from atrous.marks import check_replaceable

    errors: list[AtrousError] = []
    if image.is_dir():
        files = {path: path.relative_to(probabilities) for path in probabilities.rglob("*") if path.suffix in SUFFIXES}
        jobs, errors = pair_jobs(dict(expand_source(str(image), results=out)), dict(sorted(files.items())), keep=keep)
    else:
        jobs = [RefineJob(image, probabilities, Path(f"{image.stem}.png"), keep)]
    jobs = [job._replace(target=out / job.target) for job in jobs]
    check_writable(out)
    for job in jobs:
        inputs = [path for path in job[:2] if isinstance(path, Path)]
        check_replaceable(job.outputs, options.mark(job), overwrite=overwrite, inputs=inputs)
    for job in jobs:
        try:
            result = refine_image(job, options, options.mark(job))
        except DiskFullError:
            raise
        except AtrousError as error:
            if not image.is_dir():
                raise
            errors.append(failure(job.source, error))
            continue
        print_line("{}: {:.2%} of the labels changed", result["image"], result["changed"])
        print_line("  -> {}, {}", result["labels"], result["overlay"])
    if errors:
        listed = "\n".join(f"  {error}" for error in errors)
        raise AtrousError(f"{len(errors)} of {len(jobs) + len(errors)} images were not refined:\n{listed}")


@app.command()
def tune(
    data: Annotated[
        str, typer.Option(help="Images with ground truth, such as voc2012:/path?split=train; not those of a test set.")
    ],
    weights: Annotated[str, typer.Option("--weights", "-w", help="The network whose probabilities are refined.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder of the search; a search that was stopped resumes from it.")
    ],
    grid: Annotated[str, typer.Option(help="The grid of a paper: v1 or v2.")] = "v2",
    images: Annotated[int | None, typer.Option(help="Use only the first images, this many; the papers: 100.")] = None,
    iterations: Annotated[int, typer.Option(help="Mean-field updates.")] = 10,
    prune: Annotated[float, typer.Option(help="Leave out classes whose probability is nowhere above this.")] = 0.01,
    workers: Annotated[int | None, typer.Option(help="Images at a time; by default one per core.")] = None,
    max_pixels: MaxPixels = None,
    overwrite: Overwrite = False,
) -> None:
    """Search w1, sigma_alpha and sigma_beta, coarse to fine, as DeepLab v1 and v2 did.

    First the network's probabilities are computed and saved in OUT, then the grid is searched. A search that was
    stopped resumes. A plot of the search is drawn if matplotlib is installed.

    Example:

      atrous crf tune --data 'voc2012:/data/VOC2012?split=train' -w deeplab_v3.mobilenet_v2.voc --images 100 -o runs/crf
    """
    from importlib.util import find_spec

    from atrous.data.catalog import open_dataset
    from atrous.errors import did_you_mean
    from atrous.evaluation.crf_search import GRIDS, MARK, plot_search
    from atrous.evaluation.crf_search import tune as search
    from atrous.files import check_writable
    from atrous.marks import check_replaceable

    if grid not in GRIDS:
        raise AtrousError(f"There is no grid '{grid}'.{did_you_mean(grid, GRIDS)} Choose {' or '.join(GRIDS)}.")
    check_writable(out)
    check_replaceable([out / "search.png"], MARK, overwrite=overwrite)
    dataset = open_dataset(data)
    if images is not None:
        dataset = dataset.select(range(min(images, len(dataset))))
    search_images = _search_images(dataset, weights, out / "probabilities")
    with progress_bar("searching") as advance:
        result = search(
            search_images, GRIDS[grid], iterations=iterations, prune=prune, ignore_index=dataset.ignore_index,
            log_path=out / "search.jsonl", workers=workers, progress=advance,
        )  # fmt: skip
    best = result.best
    before, after = 100 * result.miou_before, 100 * best.miou
    print_line("mIoU {:.2f} before, [bold]{:.2f}[/] after, on {} images", before, after, len(search_images))
    if best.miou <= result.miou_before:
        print_line(
            "[yellow]note[/]: no parameters of the grid are better than no CRF on these images: leave it out, or "
            "try the other grid or other images"
        )
    print_line("w1 {:g}, sigma_alpha {:g}, sigma_beta {:g}", best.w1, best.sigma_alpha, best.sigma_beta)
    if find_spec("matplotlib"):
        plot_search(result, out / "search.png")
        print_line("  -> {}", out / "search.png")


def _search_images(dataset: SegmentationDataset, weights: str, folder: Path) -> list[SearchImage]:
    """Compute the network's probabilities once, save them as 16-bit floats, and pair them with the data set."""
    from urllib.parse import quote

    import numpy as np

    from atrous.evaluation.crf_search import SearchImage
    from atrous.files import writing
    from atrous.imaging.archives import write_npy
    from atrous.imaging.probabilities import read_array
    from atrous.inference import Segmenter

    _record_weights(weights, folder)
    files = [folder / f"{quote(item.name, safe='')}.{_version(item.image)}.npy" for item in dataset.items]
    missing = [index for index, file in enumerate(files) if not file.exists()]
    if missing:
        segmenter = Segmenter.load(weights)
        with progress_bar("computing probabilities") as advance:
            for done, index in enumerate(missing):
                probabilities = segmenter(dataset[index].image, probabilities=True).probabilities
                assert probabilities is not None
                with writing(files[index]) as temporary:
                    write_npy(temporary, probabilities.astype(np.float16))
                advance(done + 1, len(missing))

    def loader(index: int) -> Any:
        def load() -> tuple[Any, Any, Any]:
            maps = read_array(files[index]).astype(np.float32)
            sample = dataset[index]
            return sample.image, maps / maps.sum(0), sample.labels

        return load

    return [
        SearchImage(item.name, loader(index), _version(item.image, item.mask))
        for index, item in enumerate(dataset.items)
    ]


def _version(*files: Path | None) -> str:
    """Tell files from others of the same name, and from later versions of themselves: their digest, without reading."""
    import hashlib

    paths = [path.resolve() for path in files if path is not None and path.is_file()]
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(repr(states).encode("utf-8", "surrogateescape")).hexdigest()[:12]


def _record_weights(weights: str, folder: Path) -> None:
    """Record in a folder of probabilities which weights they are from, so that those of others are not taken for them.

    Raises: `AtrousError` if the folder contains probabilities of other weights.
    """
    from atrous.files import write_text
    from atrous.weights import find_weights
    from atrous.weights.importers.formats import digest_files

    digest = digest_files(find_weights(weights))
    record = folder / "weights.sha256"
    earlier = record.read_text("utf-8").strip() if record.is_file() else ""
    if earlier != digest and next(folder.glob("*.npy"), None) is not None:
        raise AtrousError(f"{folder} contains the probabilities of other weights: choose another folder with -o.")
    write_text(record, f"{digest}\n")
