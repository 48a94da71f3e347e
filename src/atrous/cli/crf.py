"""`atrous crf`: refine the probabilities of any network by the fully connected CRF, and search its parameters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from atrous.cli.options import MaxPixels, Overwrite
from atrous.console import print_line
from atrous.errors import AtrousError, describe_unexpected
from atrous.progress import progress_bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from atrous.card import Card
    from atrous.data.dataset import SegmentationDataset
    from atrous.evaluation.crf_search import SearchImage
    from atrous.imaging.probabilities import ClassProbabilities


PRESETS = ("v1", "v2", "v2_resnet", "crf_rnn", "krahenbuhl")
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
    image: Annotated[Path, typer.Argument(help="The image.")],
    probabilities: Annotated[
        Path,
        typer.Argument(
            help="A .npy file, (classes, height, width), summing to 1, or a .npz of `atrous predict --probabilities`."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to.")] = Path("out"),
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
) -> None:
    """Refine class probabilities by the colors of the image: writes labels, and overlays before and after.

    Examples:

      atrous crf street.jpg street.npy -o out

      atrous crf street.jpg street.npy --preset v1 --sigma-alpha 70 --probabilities
    """
    from dataclasses import replace

    import numpy as np

    from atrous.crf import Bilateral, dense_crf, get_preset
    from atrous.files import check_writable, overlay_path, writing
    from atrous.imaging.io import read_image, save_image
    from atrous.inference import Segmentation
    from atrous.marks import Mark, check_replaceable

    check_writable(out)
    mark, target = Mark("crf"), out / f"{image.stem}.png"
    outputs = [target, overlay_path(target), out / f"{image.stem}_before_overlay.png"]
    outputs += [out / f"{image.stem}.npy"] if keep else []
    check_replaceable(outputs, mark, overwrite=overwrite, inputs=(image, probabilities))
    pixels = read_image(image)
    maps, classes, colors = _read_classes(probabilities, weights)
    crf = get_preset(preset)
    options: dict[str, Any] = {"w": w1, "sigma_alpha": sigma_alpha, "sigma_beta": sigma_beta}
    bilateral = replace(
        crf.bilateral or Bilateral(), **{name: value for name, value in options.items() if value is not None}
    )
    refined = dense_crf(pixels, maps, replace(crf, bilateral=bilateral), iterations=iterations, prune=prune)
    before, after = (
        Segmentation(pixels, each.argmax(0).astype(np.uint8 if len(maps) <= 256 else np.uint16), classes, colors)
        for each in (maps, refined)
    )
    labels, overlay = after.save(target, overwrite=True, mark=mark)
    save_image(before.overlay(), outputs[2], mark)
    if keep:
        with writing(outputs[3]) as temporary:
            np.save(temporary, refined)
            mark.append_to(temporary)
    moved = float((before.labels != after.labels).mean())
    print_line("{}: {:.2%} of the labels changed", image, moved)
    print_line("  -> {}, {}", labels, overlay)


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


def _read_probabilities(path: Path) -> NDArray[np.floating]:
    import numpy as np

    if not path.is_file():
        raise AtrousError(f"{path}: no such file; save the probabilities of a network with numpy.save.")
    try:
        # Mapping the file compares the size in its header with its own before memory is allocated.
        maps = np.load(path, allow_pickle=False, mmap_mode="r")
        if isinstance(maps, np.ndarray):
            return np.array(maps)
    except MemoryError as error:
        raise AtrousError(f"{path}: the probabilities do not fit into memory. Use a smaller image.") from error
    except Exception as error:  # NumPy's reader of headers raises exceptions of many kinds
        raise AtrousError(
            f"{path}: not a complete .npy file of numbers ({describe_unexpected(error)}). Save it with numpy.save."
        ) from error
    raise AtrousError(f"{path}: an archive of several arrays, expected one array (classes, height, width).")


def _read_classes(path: Path, weights: str | None) -> ClassProbabilities:
    """Read probabilities, with the classes of the file, or those of `weights`."""
    from atrous.imaging.probabilities import ClassProbabilities, read_probabilities
    from atrous.weights import read_card

    if path.suffix.lower() == ".npz":
        stored = read_probabilities(path)
        if weights is None:
            return stored
        maps = stored.maps
    else:
        maps = _read_probabilities(path)
    return ClassProbabilities(maps, *_names_and_colors(len(maps), read_card(weights) if weights else None))


def _names_and_colors(count: int, card: Card | None) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    from atrous.imaging.labels import voc_color_map

    if card is None:
        return tuple(f"class {index}" for index in range(count)), voc_color_map(count)
    if len(card.classes) != count:
        raise AtrousError(
            f"The probabilities have {count} classes, the weights {len(card.classes)}: pass with -w the weights "
            "that computed the probabilities, or leave out -w."
        )
    return card.classes, card.colors


def _search_images(dataset: SegmentationDataset, weights: str, folder: Path) -> list[SearchImage]:
    """Compute the network's probabilities once, save them as 16-bit floats, and pair them with the data set."""
    import numpy as np

    from atrous.evaluation.crf_search import SearchImage
    from atrous.files import writing
    from atrous.inference import Segmenter

    _record_weights(weights, folder)
    files = [folder / f"{name.replace('/', '_')}.npy" for name in dataset.names]
    missing = [index for index, file in enumerate(files) if not file.exists()]
    if missing:
        segmenter = Segmenter.load(weights)
        with progress_bar("computing probabilities") as advance:
            for done, index in enumerate(missing):
                probabilities = segmenter(dataset[index].image, probabilities=True).probabilities
                assert probabilities is not None
                with writing(files[index]) as temporary:
                    np.save(temporary, probabilities.astype(np.float16))
                advance(done + 1, len(missing))

    def loader(index: int) -> Any:
        def load() -> tuple[Any, Any, Any]:
            maps = _read_probabilities(files[index]).astype(np.float32)
            sample = dataset[index]
            return sample.image, maps / maps.sum(0), sample.labels

        return load

    return [SearchImage(name, loader(index)) for index, name in enumerate(dataset.names)]


def _record_weights(weights: str, folder: Path) -> None:
    """Record in a folder of probabilities which weights they are from, so that those of others are not taken for them.

    Raises: `AtrousError` if the folder contains probabilities of other weights.
    """
    import hashlib

    from atrous.files import write_text
    from atrous.weights import find_weights

    digest = hashlib.sha256(find_weights(weights).read_bytes()).hexdigest()
    record = folder / "weights.sha256"
    earlier = record.read_text("utf-8").split()[:1] if record.is_file() else []
    if earlier != [digest] and next(folder.glob("*.npy"), None) is not None:
        raise AtrousError(f"{folder} contains the probabilities of other weights: choose another folder with -o.")
    write_text(record, f"{digest}\n")
