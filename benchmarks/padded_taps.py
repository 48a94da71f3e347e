"""Measure whether skipping the padded taps of atrous convolutions makes DeepLab v3 faster.

    python benchmarks/padded_taps.py [--rounds 7] [--threads 2] [--size 513] [--network deeplab_v3.resnet50 ...]

A 3x3 convolution at rate 12, 24 or 36 on a 65x65 map spends 42 % of its multiply-adds on padding. Here each atrous
convolution is split so that none is: into bands of "rows" that see the same rows of the kernel (padding on the left and
right remains), or into "regions" that see the same taps. Where the rate reaches the side of the map, only the
middle of the kernel is left. The table gives the time of the whole network, batch normalization folded, as a ratio to
the same network unsplit (below 1: faster): in eager torch in both memory formats, in ONNX Runtime and in OpenVINO
(float32), as wall time and as CPU time of the process. The variants alternate, and the ratio is the median of those of
the rounds. The last column is the largest difference of scores relative to the largest score.

`--layers` gives milliseconds of CPU time of single convolutions in eager torch, by rate.
"""

from __future__ import annotations

import argparse
import copy
import io
import itertools
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from atrous.models import create_model

NETWORKS = ("deeplab_v3.resnet50", "deeplab_v3.resnet101", "deeplab_v3.mobilenet_v2")
STRIDES = (8, 16)
VARIANTS = ("unsplit", "rows", "regions")
LAYERS = (
    (2048, 256, 65, (1, 12, 24, 36)),
    (512, 512, 65, (1, 4, 8, 16)),
    (2048, 256, 33, (1, 6, 12, 18)),
)
"""Single convolutions: channels in and out, side of the map, rates."""

Runner = Callable[[Tensor], Tensor]
Times = dict[str, list[tuple[float, float]]]
"""Wall and CPU seconds of each round, by variant."""


def main() -> None:
    """Print one of the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=513)
    parser.add_argument("--network", nargs="+", default=NETWORKS)
    parser.add_argument("--stride", type=int, nargs="+", default=STRIDES)
    parser.add_argument("--layers", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads, medians of {arguments.rounds} rounds")
    with torch.no_grad():
        if arguments.layers:
            measure_layers(arguments.rounds)
        else:
            measure_networks(arguments)


def measure_networks(arguments: argparse.Namespace) -> None:
    """Print a Markdown table with a row for each network, output stride, runtime and way of splitting."""
    print("| network | image | stride | multiply-adds | runtime | split | time | CPU time | difference |")
    print("|---|---:|---:|---:|---|---|---:|---:|---:|")
    image = torch.randn(1, 3, arguments.size, arguments.size)
    for name, stride in itertools.product(arguments.network, arguments.stride):
        networks = {variant: build(name, stride, variant, image) for variant in VARIANTS}
        share = f"{share_of_network(networks['unsplit'], image):.2f}"
        for label, runtime in RUNTIMES.items():
            runners = {variant: runtime(network, image, arguments.threads) for variant, network in networks.items()}
            times, difference = alternate(runners, image, arguments.rounds)
            for variant in VARIANTS[1:]:
                wall, cpu = (f"{ratio(times, variant, kind):.2f}" for kind in (0, 1))
                cells = (name, arguments.size, stride, share, label, variant, wall, cpu, f"{difference[variant]:.0e}")
                print("|", *(f"{cell} |" for cell in cells), flush=True)


def measure_layers(rounds: int) -> None:
    """Print a Markdown table with a row for each convolution and rate."""
    print("| channels | map | rate | multiply-adds | format | unsplit | rows | regions |")
    print("|---|---:|---:|---:|---|---:|---:|---:|")
    for channels, out_channels, side, rates in LAYERS:
        for rate, label in itertools.product(rates, ("eager", "channels-last")):
            conv = nn.Conv2d(channels, out_channels, 3, padding=rate, dilation=rate)
            x = torch.randn(1, channels, side, side)
            times, _ = alternate({v: RUNTIMES[label](split(conv, v), x, 0) for v in VARIANTS}, x, rounds)
            medians = [f"{1000 * statistics.median(cpu for _, cpu in times[variant]):.0f}" for variant in VARIANTS]
            share = f"{share_of_taps(side, rate):.2f}"
            cells = (f"{channels} to {out_channels}", side, rate, share, label, *medians)
            print("|", *(f"{cell} |" for cell in cells), flush=True)


def alternate(runners: dict[str, Runner], image: Tensor, rounds: int) -> tuple[Times, dict[str, float]]:
    """Time the variants in turn; the first round is not counted, but gives the differences from the unsplit one."""
    outputs = {variant: run(image) for variant, run in runners.items()}
    expected = outputs["unsplit"]
    times: Times = {variant: [] for variant in runners}
    for _ in range(rounds):
        for variant, run in runners.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run(image)
            times[variant].append((time.perf_counter() - wall, time.process_time() - cpu))
    scale = expected.abs().max()
    return times, {variant: float((output - expected).abs().max() / scale) for variant, output in outputs.items()}


def ratio(times: Times, variant: str, kind: int) -> float:
    """Compute the median over rounds of a variant's time as a ratio to the unsplit one's; kind 0 is wall, 1 CPU."""
    pairs = zip(times[variant], times["unsplit"], strict=True)
    return statistics.median(one[kind] / other[kind] for one, other in pairs)


def build(name: str, stride: int, variant: str, image: Tensor) -> nn.Module:
    """Build a network with random weights, batch normalization folded and atrous convolutions split."""
    torch.manual_seed(0)
    model = Scores(create_model(name, num_classes=21, output_stride=stride))
    set_batch_norm(model, image)
    fold_batch_norm(model, image[..., :65, :65])
    convs = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.dilation[0] > 1]
    replace(model, {conv: split(conv, variant) for conv in convs})
    return model


class Scores(nn.Module):
    """Compute a model's low-resolution logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.model.scores(image)
        return scores


def set_batch_norm(model: nn.Module, image: Tensor) -> None:
    """Give batch normalization the statistics of an image, without which activations of random weights vanish."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1
    model.train()(image)
    model.eval()


def fold_batch_norm(model: nn.Module, image: Tensor) -> None:
    """Fold each batch normalization into the convolution before it, as runtimes do, also where it will be split."""
    producers: dict[int, tuple[nn.Module, Tensor]] = {}  # by the identity of the output, which is kept alive
    folded: dict[nn.Module, nn.Module] = {}

    def note(conv: nn.Module, _: Any, output: Tensor) -> None:
        producers[id(output)] = conv, output

    def fold(bn: Any, inputs: tuple[Tensor, ...]) -> None:
        conv: Any = producers[id(inputs[0])][0]
        statistics_and_scale = bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
        conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics_and_scale)
        folded[bn] = nn.Identity()

    layers = list(model.modules())
    hooks = [layer.register_forward_hook(note) for layer in layers if isinstance(layer, nn.Conv2d)]
    hooks += [layer.register_forward_pre_hook(fold) for layer in layers if isinstance(layer, nn.BatchNorm2d)]
    model(image)
    for hook in hooks:
        hook.remove()
    replace(model, folded)


def replace(model: nn.Module, layers: dict[nn.Module, nn.Module]) -> None:
    """Replace layers of a model."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            setattr(parent, name, layers.get(child, child))


def split(conv: nn.Conv2d, variant: str) -> nn.Module:
    """Make a convolution skip its padded taps; one without a rate stays as it is."""
    return conv if variant == "unsplit" or conv.dilation[0] == 1 else SplitConv2d(conv, columns=variant == "regions")


class SplitConv2d(nn.Module):
    """An atrous 3x3 convolution as several ones without padding, along the rows or along both axes.

    Shape: (N, in_channels, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, conv: nn.Conv2d, *, columns: bool) -> None:
        super().__init__()
        self.conv = conv
        self.columns = columns

    def forward(self, x: Tensor) -> Tensor:
        rate = self.conv.dilation[0]
        columns = spans_of(x.shape[-1], rate) if self.columns else [Span(x.shape[-1], slice(0, 3), slice(None))]
        bands = [[self.part(x, rows, span) for span in columns] for rows in spans_of(x.shape[-2], rate)]
        return torch.cat([torch.cat(band, 3) if len(band) > 1 else band[0] for band in bands], 2)

    def part(self, x: Tensor, rows: Span, columns: Span) -> Tensor:
        """Compute the outputs of one span of rows and columns."""
        conv, rate = self.conv, self.conv.dilation[0]
        weight = conv.weight[:, :, rows.taps, columns.taps]
        padding = (0, 0 if self.columns else rate)
        return F.conv2d(x[:, :, rows.inputs, columns.inputs], weight, conv.bias, 1, padding, rate, conv.groups)


class Span(NamedTuple):
    """Neighboring outputs along one axis that see the same taps: their number, the taps and their inputs."""

    outputs: int
    taps: slice
    inputs: slice


def spans_of(side: int, rate: int) -> list[Span]:
    """Divide an axis of a map into spans of outputs whose taps are the same and not on padding."""
    borders = sorted({0, min(rate, side), max(side - rate, 0), side})
    spans = []
    for start, end in itertools.pairwise(borders):
        first, last = 0 if start >= rate else 1, 2 if end + rate <= side else 1
        inputs = slice(start + (first - 1) * rate, end + (last - 1) * rate)
        spans.append(Span(end - start, slice(first, last + 1), inputs))
    return spans


def share_of_taps(side: int, rate: int) -> float:
    """Compute the share of a 3x3 convolution's multiply-adds on a square map that are not on padding."""
    taps = sum(span.outputs * (span.taps.stop - span.taps.start) for span in spans_of(side, rate))
    return (taps / (3 * side)) ** 2


def share_of_network(network: nn.Module, image: Tensor) -> float:
    """Compute the share of a network's multiply-adds that are not on the padding of its atrous convolutions."""
    work: list[tuple[float, float]] = []

    def count(conv: Any, _: Any, output: Tensor) -> None:
        share = share_of_taps(output.shape[-1], conv.dilation[0]) if conv.dilation[0] > 1 else 1
        work.append((output.numel() * conv.weight[0].numel(), share))

    hooks = [layer.register_forward_hook(count) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    network(image)
    for hook in hooks:
        hook.remove()
    return sum(amount * share for amount, share in work) / sum(amount for amount, _ in work)


def eager(network: nn.Module, image: Tensor, threads: int) -> Runner:
    """Run a network by torch, as it is."""
    return network


def channels_last(network: nn.Module, image: Tensor, threads: int) -> Runner:
    """Run a copy of a network by torch in channels-last order."""
    network = copy.deepcopy(network).to(memory_format=torch.channels_last)
    return lambda x: network(x.contiguous(memory_format=torch.channels_last))


def onnx_runtime(network: nn.Module, image: Tensor, threads: int) -> Runner:
    """Run a network by ONNX Runtime; its threads wait without spinning, so that CPU time counts only work."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(to_onnx(network, image), options, ["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"image": x.numpy()})[0])


def openvino(network: nn.Module, image: Tensor, threads: int) -> Runner:
    """Run a network by OpenVINO in float32. Its conversion tools, which send usage data, find no module to do so."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    from openvino import Core

    core = Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = core.compile_model(core.read_model(to_onnx(network, image)), "CPU", settings)
    return lambda x: torch.from_numpy(compiled([x.numpy()])[0].copy())


RUNTIMES = {"eager": eager, "channels-last": channels_last, "ONNX Runtime": onnx_runtime, "OpenVINO": openvino}


def to_onnx(network: nn.Module, image: Tensor) -> bytes:
    """Convert a network to ONNX for the size of the image."""
    content: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of traced sizes, which are meant to be constants here
        torch.onnx.export(
            network, (image,), content, dynamo=False, do_constant_folding=False, input_names=["image"], opset_version=18
        )
    result: bytes = content.getvalue()
    return result


if __name__ == "__main__":
    main()
