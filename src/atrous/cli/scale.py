"""The options of commands that run on a Ray cluster, and the report at their end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atrous.console import print_line
from atrous.errors import AtrousError
from atrous.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable

    from atrous.scale.cluster import Resources
    from atrous.scale.jobs import JobOptions, JobReport

Ray = Annotated[
    bool,
    typer.Option(
        "--ray",
        help="Run on a Ray cluster, by default on one of this machine; images and results may be at addresses such as "
        "s3://bucket/photos. Stopped jobs resume.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(help="With --ray: the cluster to connect to, such as 10.0.0.1:6379; auto is that of this machine."),
]
Workers = Annotated[
    int | None, typer.Option(help="With --ray: the number of workers; by default as many as the cluster has room for.")
]
NumCpus = Annotated[float, typer.Option(help="With --ray: the cores of each worker.")]
NumGpus = Annotated[
    float | None,
    typer.Option(help="With --ray: the GPUs of each worker, such as 0.5; by default 1 if the cluster has any."),
]


def cluster_resources(
    ray: bool, address: str | None, workers: int | None, num_cpus: float, num_gpus: float | None
) -> Resources | None:
    """Collect the options of a cluster; None without --ray.

    Raises: `AtrousError` for numbers that are not positive, and for other options of --ray without it.
    """
    if not ray:
        if (address, workers, num_cpus, num_gpus) != (None, None, 1, None):
            raise AtrousError("--address, --workers, --num-cpus and --num-gpus choose a cluster: add --ray.")
        return None
    from atrous.scale.cluster import Resources

    return Resources(workers, num_cpus, num_gpus)


def run_with_report(
    run: Callable[[JobOptions], JobReport],
    description: str,
    out: str,
    *,
    address: str | None,
    resources: Resources,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Run jobs on a cluster with a progress bar, and print how many results were written.

    Raises: `AtrousError` at the end, listing the images that failed.
    """
    from atrous.scale.jobs import JobOptions

    written = 0

    def count(result: dict[str, Any]) -> None:
        nonlocal written
        written += 1
        if as_json:
            typer.echo(json.dumps(result))

    try:
        with progress_bar(description) as on_progress:
            options = JobOptions(address, resources, overwrite, on_progress, count)
            report = run(options)
    except KeyboardInterrupt:
        template = "[yellow]stopped after {:,} images; the same command resumes. Their results are in {}[/]"
        print_line(template, written, out, stderr=True)
        raise typer.Exit(130) from None
    if report.failures:
        listed = "\n".join(f"  {failure}" for failure in report.failures)
        raise AtrousError(
            f"{len(report.failures)} of {report.images} images failed, the others are in {out}:\n{listed}"
        )
    skipped = f", {report.skipped:,} were finished before" if report.skipped else ""
    template = "{:,} images in {:.1f} s{} -> {}"
    print_line(template, report.written, report.seconds, skipped, out, stderr=as_json)
