"""`atrous data`: list, check and convert data sets, and build trainaug."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atrous.cli.options import MaxPixels
from atrous.console import make_console, print_line
from atrous.progress import progress_bar

app = typer.Typer(
    name="data", help="Data sets: list, check, convert, build trainaug.", no_args_is_help=True, add_completion=False
)
Data = Annotated[str, typer.Argument(help="A data set such as voc2012:/path?split=val, or a folder of your own.")]


@app.command("list")
def list_(
    pattern: Annotated[str, typer.Argument(help="A wildcard such as 'coco*', or a part of a name.")] = "*",
) -> None:
    """List the known data sets and their options.

    Example:

      atrous data list pascal
    """
    from rich.table import Table

    from atrous.data.catalog import list_datasets
    from atrous.data.dataset import DATASETS
    from atrous.errors import AtrousError

    names = list_datasets(pattern)
    if not names:
        raise AtrousError(f"No data set matches '{pattern}'; `atrous data list` lists all {len(list_datasets())}.")
    table = Table("name", "description", "options")
    table.columns[0].no_wrap = True
    for name in names:
        entry = DATASETS.entry(name)
        summary = (entry.function.__doc__ or "").strip().split("\n\n")[0]
        options = [key for key in entry.arguments() if key != "root"]
        table.add_row(name, " ".join(summary.split()), ", ".join(options))
    make_console().print(table)


@app.command()
def check(data: Data, max_pixels: MaxPixels = None) -> None:
    """Check quickly, by file headers alone, that images and masks exist and have the same size.

    The exit code is 1 if there are errors. `atrous inspect` checks the pixels too.

    Example:

      atrous data check cityscapes:/data/cityscapes
    """
    from atrous.data.convert import check_files
    from atrous.data.inspect import open_splits

    errors: list[str] = []
    for dataset in open_splits(data):
        with progress_bar(f"checking {dataset.split}") as on_progress:
            errors += check_files(dataset, on_progress=on_progress)
        print_line("{} {}: {:,} images, {} classes", dataset.name, dataset.split, len(dataset), len(dataset.classes))
    for error in errors:
        print_line("  [red]{}[/]", error)
    if errors:
        raise typer.Exit(1)


@app.command()
def convert(
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to; created if it does not exist.")],
    max_pixels: MaxPixels = None,
) -> None:
    """Convert a data set to a folder of images, index PNGs and classes.yaml, which is faster to read and portable.

    Without a split in DATA, all splits are converted. Files of an interrupted run are kept.

    Example:

      atrous data convert 'coco_voc:/data/coco?split=train2017' -o coco-voc
    """
    from atrous.data.convert import convert as convert_data
    from atrous.data.inspect import open_splits
    from atrous.files import check_writable

    check_writable(out)
    datasets = open_splits(data)
    with progress_bar("converting") as on_progress:
        convert_data(datasets, out, on_progress=on_progress)
    counts = ", ".join(f"{dataset.split} {len(dataset):,}" for dataset in datasets)
    print_line("{}: {} -> {}", datasets[0].name, counts, out)


@app.command("voc-aug")
def voc_aug(
    voc: Annotated[Path, typer.Option("--voc", help="PASCAL VOC 2012: VOCdevkit, or the folder with JPEGImages.")],
    sbd: Annotated[Path, typer.Option("--sbd", help="SBD: benchmark_RELEASE, or the folder with img and cls.")],
    voc2011: Annotated[
        Path | None, typer.Option("--voc2011", help="PASCAL VOC 2011, to write the list of seg11valid, too.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The folder to write to; by default the folder of VOC.")
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Accept incomplete lists.")] = False,
    max_pixels: MaxPixels = None,
) -> None:
    """Build trainaug: the 10,582 training images of VOC and SBD, without VOC's val.

    With --voc2011 also seg11valid: the 736 val images of VOC 2011 that are not in SBD's train, on which FCN is
    validated. The numbers of images are checked against the official ones.

    Examples:

      atrous data voc-aug --voc VOCdevkit/VOC2012 --sbd benchmark_RELEASE

      atrous data voc-aug --voc VOCdevkit/VOC2012 --sbd benchmark_RELEASE --voc2011 VOCdevkit/VOC2011
    """
    from atrous.data.catalog import DatasetSpec
    from atrous.data.datasets.sbd import build_seg11valid, build_trainaug
    from atrous.data.datasets.voc import FOLDERS
    from atrous.data.layout import find_root
    from atrous.files import check_writable

    target = out or find_root(voc, *FOLDERS, containing="JPEGImages")
    check_writable(target)
    with progress_bar("trainaug") as on_progress:
        names = build_trainaug(voc, sbd, target, partial=partial, on_progress=on_progress)
    built = {"trainaug": names}
    if voc2011 is not None:
        built["seg11valid"] = build_seg11valid(voc2011, sbd, target, partial=partial)
    aug = {"aug": str(out.resolve())} if out else {}
    for split, names in built.items():
        spec = DatasetSpec("voc2012", str(voc), {"split": split, **aug})
        print_line("{:,} images -> '{}'", len(names), spec)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A folder with images and masks.")], max_pixels: MaxPixels = None
) -> None:
    """Write a classes.yaml for your own folder of images and masks, from the values in the masks.

    Replace the placeholders in it by the names of your classes.

    Example:

      atrous data init my-data
    """
    from atrous.data.datasets.folder import write_classes_yaml

    path = write_classes_yaml(folder)
    print_line("{}: name the classes in it, then run `atrous inspect {}`", path, folder)
