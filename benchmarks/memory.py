"""Measure what keeping freed memory saves, in time and page faults, and what it costs in peak memory.

    python benchmarks/memory.py [--rounds 5] [--steps 6] [--threads 2] [--work predict train train-channels-last ...]

"predict" is a forward pass of a network in eager torch on an image of 513 x 513, "train" a step of
`deeplab_v3_plus.efficientnet_lite0` on 4 crops of 481 x 353: forward, loss, backward, SGD. Each round starts a process
with and one without `ATROUS_KEEP_MEMORY=0`, in turn. The table gives medians over all processes without their first
step, with keeping as a ratio to without (below 1: less); CPU time is that of all threads. The ratios of the rounds are
given as a range.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from atrous.allocator import KEEP_MEMORY, keep_freed_memory

PREDICT = {"predict-mobilenet": "deeplab_v3.mobilenet_v2", "predict-resnet50": "deeplab_v3.resnet50"}
WORK = tuple(name + suffix for name in (*PREDICT, "train") for suffix in ("", "-channels-last"))
TRAINED = "deeplab_v3_plus.efficientnet_lite0"

Measurement = dict[str, float]


def main() -> None:
    """Print a Markdown table with a row for each kind of work, or with `--only` measure it in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="processes with and without")
    parser.add_argument("--steps", type=int, default=6, help="counted steps per process")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", nargs="+", choices=WORK, default=WORK)
    parser.add_argument("--only", choices=WORK, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.steps, arguments.threads)))
        return
    print(f"{arguments.threads} threads, medians of {arguments.rounds} processes of {arguments.steps} steps each")
    print(
        "| work | time | range | CPU time | page faults per step, with / without | peak memory, with / without, MiB |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for work in arguments.work:
        pairs = [tuple(in_process(work, keep, arguments) for keep in ("1", "0")) for _ in range(arguments.rounds)]
        ratios = [kept["seconds"] / returned["seconds"] for kept, returned in pairs]
        cpu = statistics.median(kept["cpu_seconds"] / returned["cpu_seconds"] for kept, returned in pairs)
        faults, peak = (
            " / ".join(f"{statistics.median(one[key] for one in side):,.0f}" for side in zip(*pairs, strict=True))
            for key in ("faults", "peak")
        )
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"| {work} | {statistics.median(ratios):.2f} | {spread} | {cpu:.2f} | {faults} | {peak} |", flush=True)


def in_process(work: str, keep: str, arguments: argparse.Namespace) -> Measurement:
    """Measure in a new process. This one never loads torch: on Linux a process begins with its parent's peak memory."""
    command = [sys.executable, __file__, "--only", work, "--steps", str(arguments.steps)]
    command += ["--threads", str(arguments.threads)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment[KEEP_MEMORY] = keep
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    measurement: Measurement = json.loads(result.stdout)
    return measurement


def measure(work: str, steps: int, threads: int) -> Measurement:
    """Measure seconds, CPU seconds and page faults per step (medians), and the peak memory of this process in MiB."""
    keep_freed_memory()
    step = make_step(work, threads)
    step()
    rows = []
    for _ in range(steps):
        faults, wall, cpu = page_faults(), time.perf_counter(), time.process_time()
        step()
        rows.append((time.perf_counter() - wall, time.process_time() - cpu, page_faults() - faults))
    medians = (statistics.median(column) for column in zip(*rows, strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return dict(zip(("seconds", "cpu_seconds", "faults"), medians, strict=True)) | {"peak": peak}


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def make_step(work: str, threads: int) -> Callable[[], None]:
    """Make the function that does the work once, on random images and weights."""
    import torch
    import torch.nn.functional as F

    from atrous.models import create_model

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    name = work.removesuffix("-channels-last")
    memory_format = torch.contiguous_format if name == work else torch.channels_last
    if name in PREDICT:
        network = create_model(PREDICT[name], num_classes=21, output_stride=8).to(memory_format=memory_format).eval()
        image = torch.randn(1, 3, 513, 513).to(memory_format=memory_format)

        @torch.inference_mode()
        def predict() -> None:
            network.scores(image)

        return predict

    model = create_model(TRAINED, num_classes=11).to(memory_format=memory_format).train()
    images = torch.randn(4, 3, 353, 481).to(memory_format=memory_format)
    labels = torch.randint(11, (4, 353, 481))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def train() -> None:
        optimizer.zero_grad()
        torch.stack(
            [weight * F.cross_entropy(x, labels) for x, weight in model.training_outputs(images)]
        ).sum().backward()
        optimizer.step()

    return train


if __name__ == "__main__":
    main()
