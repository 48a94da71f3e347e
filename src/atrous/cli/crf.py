"""`atrous crf`: the fully connected CRF on probabilities of any network, and the search for its parameters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from atrous.errors import AtrousError
from atrous.progress import progress_bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from atrous.card import Card
    from atrous.data.dataset import SegmentationDataset
    from atrous.evaluation.crf_search import Sample


PRESETS = ("v1", "v2", "v2_resnet", "crf_rnn", "krahenbuhl")
"""The names of `atrous.crf.PRESETS`, told without loading numpy."""


class _RefineByDefault(TyperGroup):
    """`atrous crf IMAGE ...` is `atrous crf refine IMAGE ...`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["refine", *args])


app = typer.Typer(
    name="crf",
    cls=_RefineByDefault,
    help="The fully connected CRF: `atrous crf IMAGE PROBABILITIES.npy -o OUT` refines, `atrous crf tune` searches.",
    no_args_is_help=True,
    add_completion=False,
)
Preset = Annotated[str, typer.Option(help=f"The parameters of a paper: {', '.join(PRESETS)}.")]


@app.command()
def refine(
    image: Annotated[Path, typer.Argument(help="The photograph.")],
    probabilities: Annotated[Path, typer.Argument(help="A .npy file, (classes, height, width), summing to 1.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to.")] = Path("out"),
    preset: Preset = "v2",
    w1: Annotated[float | None, typer.Option(help="Weight of the bilateral kernel, instead of the preset's.")] = None,
    sigma_alpha: Annotated[float | None, typer.Option(help="Its width in pixels.")] = None,
    sigma_beta: Annotated[float | None, typer.Option(help="Its width in color levels of 0..255.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Mean-field updates, instead of the preset's.")] = None,
    prune: Annotated[float, typer.Option(help="Leave out classes that are nowhere more probable than this.")] = 0.0,
    weights: Annotated[
        str | None, typer.Option("--weights", "-w", help="Whose names and colors of classes to use.")
    ] = None,
    keep: Annotated[bool, typer.Option("--probabilities", help="Write the refined probabilities as well.")] = False,
) -> None:
    """Refine class probabilities by what the photograph shows: labels, and overlays before and after.

    Examples:

      atrous crf street.jpg street.npy -o out

      atrous crf street.jpg street.npy --preset v1 --sigma-alpha 70 --probabilities
    """
    import numpy as np
    from rich.console import Console

    from atrous.crf import Bilateral, dense_crf
    from atrous.crf import preset as paper
    from atrous.files import check_writable, writing
    from atrous.imaging.io import read_image, save_image
    from atrous.inference import Segmentation
    from atrous.weights import read_card

    check_writable(out)
    pixels, maps = read_image(image), _read_probabilities(probabilities)
    found = paper(preset)
    given = found.bilateral
    bilateral = Bilateral(
        given.w if w1 is None else w1,
        given.sigma_alpha if sigma_alpha is None else sigma_alpha,
        given.sigma_beta if sigma_beta is None else sigma_beta,
        normalization=given.normalization,
    )
    refined = dense_crf(
        pixels, maps, gaussian=found.gaussian, bilateral=bilateral, prune=prune,
        iterations=found.iterations if iterations is None else iterations,
    )  # fmt: skip
    classes, colors = _names_and_colors(len(maps), read_card(weights) if weights else None)
    before, after = (
        Segmentation(pixels, each.argmax(0).astype(np.uint8 if len(maps) <= 256 else np.uint16), classes, colors)
        for each in (maps, refined)
    )
    labels, overlay = after.save(out / f"{image.stem}.png")
    save_image(before.overlay(), out / f"{image.stem}_before_overlay.png")
    if keep:
        with writing(out / f"{image.stem}.npy") as temporary:
            np.save(temporary, refined)
    moved = float((before.labels != after.labels).mean())
    Console().print(f"{image}: {moved:.2%} of the labels changed\n  -> {labels}, {overlay}", soft_wrap=True)


@app.command()
def tune(
    data: Annotated[str, typer.Option(help="Images with truth, such as voc2012:/path?split=train; never the test's.")],
    weights: Annotated[str, typer.Option("--weights", "-w", help="The network whose output is refined.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the search is kept, and goes on from.")],
    ranges: Annotated[str, typer.Option(help="The grid of a paper: v1 or v2.")] = "v2",
    images: Annotated[int | None, typer.Option(help="Only the first so many images; the papers took 100.")] = None,
    iterations: Annotated[int, typer.Option(help="Mean-field updates.")] = 10,
    prune: Annotated[float, typer.Option(help="Leave out classes nowhere more probable than this.")] = 0.01,
    workers: Annotated[int | None, typer.Option(help="Images at a time; by default one per core.")] = None,
) -> None:
    """Search w1, sigma_alpha and sigma_beta, coarse to fine, as DeepLab v1 and v2 did.

    First the network's probabilities are computed and kept in OUT, then the grid is searched; what was done is kept
    when it is stopped. A plot of the search is drawn where matplotlib is installed.

    Example:

      atrous crf tune --data 'voc2012:/data/VOC2012?split=train' -w deeplab_v3.mobilenet_v2.voc --images 100 -o runs/crf
    """
    from importlib.util import find_spec

    from rich.console import Console

    from atrous.data.catalog import open_dataset
    from atrous.errors import did_you_mean
    from atrous.evaluation.crf_search import RANGES, plot_search
    from atrous.evaluation.crf_search import tune as search
    from atrous.files import check_writable

    if ranges not in RANGES:
        raise AtrousError(f"There is no grid '{ranges}'.{did_you_mean(ranges, RANGES)} It is {' or '.join(RANGES)}.")
    check_writable(out)
    dataset = open_dataset(data)
    if images is not None:
        dataset = dataset.select(range(min(images, len(dataset))))
    samples = _samples(dataset, weights, out / "probabilities")
    with progress_bar("searching") as advance:
        result = search(
            samples, RANGES[ranges], iterations=iterations, prune=prune, ignore_index=dataset.ignore_index,
            journal=out / "search.jsonl", workers=workers, progress=advance,
        )  # fmt: skip
    best = result.best
    console = Console()
    console.print(
        f"mIoU {100 * result.before:.2f} before, [bold]{100 * best.miou:.2f}[/] after, on {len(samples)} images"
    )
    console.print(f"w1 {best.w1:g}, sigma_alpha {best.sigma_alpha:g}, sigma_beta {best.sigma_beta:g}")
    if find_spec("matplotlib"):
        plot_search(result, out / "search.png")
        console.print(f"  -> {out / 'search.png'}", soft_wrap=True)


def _read_probabilities(path: Path) -> NDArray[np.floating]:
    import numpy as np

    if not path.is_file():
        raise AtrousError(f"{path}: there is no such file.")
    try:
        maps = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise AtrousError(f"{path}: not a whole .npy file of numbers ({error}). Save it with numpy.save.") from error
    if not isinstance(maps, np.ndarray):
        raise AtrousError(f"{path}: an archive of several arrays; one array, (classes, height, width), is expected.")
    return maps


def _names_and_colors(count: int, card: Card | None) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    from atrous.imaging.labels import voc_color_map

    if card is None:
        return tuple(f"class {index}" for index in range(count)), voc_color_map(count)
    if len(card.classes) != count:
        raise AtrousError(f"The probabilities are of {count} classes, the weights know {len(card.classes)}.")
    return card.classes, card.colors


def _samples(dataset: SegmentationDataset, weights: str, folder: Path) -> list[Sample]:
    """The data set with the network's probabilities, which are computed once and kept as 16-bit floats."""
    import numpy as np

    from atrous.evaluation.crf_search import Sample
    from atrous.files import writing
    from atrous.inference import Segmenter

    files = [folder / f"{name.replace('/', '_')}.npy" for name in dataset.names]
    missing = [index for index, file in enumerate(files) if not file.exists()]
    if missing:
        segmenter = Segmenter.load(weights)
        with progress_bar("the network's probabilities") as advance:
            for done, index in enumerate(missing):
                found = segmenter(dataset[index].image, probabilities=True).probabilities
                assert found is not None
                with writing(files[index]) as temporary:
                    np.save(temporary, found.astype(np.float16))
                advance(done + 1, len(missing))

    def loader(index: int) -> Any:
        def load() -> tuple[Any, Any, Any]:
            maps = np.load(files[index]).astype(np.float32)
            sample = dataset[index]
            return sample.image, maps / maps.sum(0), sample.labels

        return load

    return [Sample(name, loader(index)) for index, name in enumerate(dataset.names)]
