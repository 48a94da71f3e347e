"""Compare the engines with eager and compiled PyTorch, segmentation_models_pytorch, torchvision and TensorFlow Lite.

    make benchmark-env                                 # .venv-benchmark, with the other libraries
    .venv-benchmark/bin/python benchmarks/engines.py [--rounds 15] [--networks v3_mobilenet ...]
        [--voc-weights deeplabv3.tflite --int8 quantized.xml --tflite-int8 deeplabv3_quant.tflite]

One image of the stated size goes through the network alone, with random weights unless files are given, which changes
no time. Every configuration runs in a process of its own; they take turns, so that a busy machine is busy for all of
them. The last lines compare each engine with the fastest other way to run the same work.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from atrous.card import Card, Preprocessing
from atrous.inference.benchmark import (
    EAGER,
    Run,
    TimedProcess,
    Timing,
    measure_peak,
    prepare_engine,
    relative_difference,
    take_turns,
)

ENGINES = (("onnxruntime", "float32"), ("openvino", "float32"), ("openvino", "bfloat16"))


@dataclass(frozen=True)
class Network:
    """One of our networks, and those of other libraries that do the same work."""

    model: str
    size: int
    arguments: dict[str, Any] = field(default_factory=dict)
    smp: str | None = None
    """The encoder of segmentation_models_pytorch's DeepLabV3Plus."""
    torchvision: str | None = None


NETWORKS = {
    "v3_mobilenet": Network("deeplab_v3.mobilenet_v2", 513),
    "v3_plus_mobilenet": Network("deeplab_v3_plus.mobilenet_v2", 512, smp="mobilenet_v2"),
    "v3_plus_resnet50": Network("deeplab_v3_plus.resnet50", 512, {"separable": True}, smp="resnet50"),
    "v3_resnet50": Network(
        "deeplab_v3.resnet50",
        513,
        {"output_stride": 8, "multi_grid": (1, 1, 1), "refine": True},
        torchvision="deeplabv3_resnet50",
    ),
    "v3_plus_xception65": Network("deeplab_v3_plus.xception65", 512, smp="tu-xception65"),
}
PYTORCH = ("eager", "channels-last", "compile")


def main() -> None:
    """Print a Markdown table for each network, and the ratios to the fastest alternative."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes minutes")
    parser.add_argument("--voc-weights", type=Path, help="weights for the first network instead of random ones")
    parser.add_argument("--int8", type=Path, help="the first network, quantized by `atrous quantize`")
    parser.add_argument("--tflite-int8", type=Path, help="the first network, quantized, for TensorFlow Lite")
    arguments = parser.parse_args()
    peaks = {precision: measure_peak(precision) for precision in ("float32", "bfloat16")}
    print(", ".join(f"peak in {precision}: {peak / 1e9:.0f} G multiply-adds/s" for precision, peak in peaks.items()))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ATROUS_CACHE"] = str(Path(folder) / "cache")
        for name in arguments.networks:
            files = (arguments.voc_weights, arguments.int8, arguments.tflite_int8) if name == "v3_mobilenet" else ()
            compare(name, Path(folder), peaks, arguments.rounds, not arguments.no_compile, *files)


def compare(
    name: str,
    folder: Path,
    peaks: dict[str, float],
    rounds: int,
    compiled: bool,
    weights: Path | None = None,
    int8: Path | None = None,
    tflite_int8: Path | None = None,
) -> None:
    """Measure one network in every configuration and print its table."""
    network = NETWORKS[name]
    weights = weights or save_random(network, folder / f"{name}.safetensors")
    size = (network.size, network.size)
    ways = PYTORCH if compiled else PYTORCH[:2]
    configurations: dict[tuple[str, str], tuple[Any, ...]] = {
        (f"ours, {way}", "float32"): (prepare_ours, str(weights), way, network.size) for way in ways
    }
    for library, model in (("smp", network.smp), ("torchvision", network.torchvision)):
        if model is not None:
            configurations |= {
                (f"{library}, {way}", "float32"): (prepare_other, library, model, way, network.size) for way in ways
            }
    if tflite_int8 is not None:
        configurations["TensorFlow Lite", "int8"] = (prepare_tflite, str(tflite_int8))
    others = len(configurations)
    for engine, precision in ENGINES:
        configurations[engine, precision] = (prepare_engine, str(weights), engine, precision, size, 1, None)
    if int8 is not None:
        configurations["openvino", "int8"] = (prepare_engine, str(int8), "auto", "int8", size, 1, None)
    with ExitStack() as stack:
        processes = [stack.enter_context(TimedProcess(*prepare)) for prepare in configurations.values()]
        seconds = take_turns(processes, rounds)
        timings = [
            Timing(way, precision, runs, process.peak_memory(), relative_difference(process, processes[0]))
            for (way, precision), runs, process in zip(configurations, seconds, processes, strict=True)
        ]
    report(network, timings, others, peaks)


def report(network: Network, timings: list[Timing], others: int, peaks: dict[str, float]) -> None:
    """Print the table of a network: the first `others` timings are the alternatives."""
    count = multiply_adds(network)
    print(
        f"\n{network.model} {network.arguments or ''}, {network.size} x {network.size}, "
        f"{count / 1e9:.1f} G multiply-adds"
    )
    print("| way | precision | ms (10-90 %) | share of peak | memory, MB | difference | times the fastest other |")
    print("|---|---|---:|---:|---:|---:|---:|")
    float_others = [timing for timing in timings[:others] if timing.precision == "float32"]
    fastest = min(timing.median for timing in float_others)
    for index, timing in enumerate(timings):
        low, high = timing.spread
        peak = peaks.get(timing.precision)
        share = f"{count / timing.median / peak:.0%}" if peak else ""
        memory = "" if timing.peak_memory is None else f"{timing.peak_memory / 2**20:.0f}"
        difference = "" if timing.difference is None else f"{timing.difference:.0e}"
        ratio = f"{fastest / timing.median:.2f}" if index >= others else ""
        print(
            f"| {timing.engine} | {timing.precision} | {1000 * timing.median:.1f} ({1000 * low:.1f}-{1000 * high:.1f}) "
            f"| {share} | {memory} | {difference} | {ratio} |"
        )


def save_random(network: Network, path: Path) -> Path:
    """Save a network with random weights, and batch statistics that fit them, so that scores keep their scale."""
    import torch

    from atrous.models import create_model
    from atrous.weights import save

    torch.manual_seed(0)
    model = create_model(network.model, num_classes=21, **network.arguments)
    with torch.no_grad():
        model.train()
        for _ in range(3):
            model(torch.randn(2, 3, 129, 129))
    classes = tuple(f"class {index}" for index in range(21))
    card = Card(
        model=network.model,
        arguments=network.arguments,
        classes=classes,
        colors=((0, 0, 0),) * 21,
        preprocessing=Preprocessing(),
    )
    return save(model.eval(), path, card=card)


def multiply_adds(network: Network) -> int:
    """Count the multiply-adds of one image."""
    import torch

    from atrous.analysis.counts import multiply_adds as count
    from atrous.models import create_model

    with torch.device("meta"):
        return count(create_model(network.model, num_classes=21, **network.arguments), network.size, network.size)


def prepare_ours(weights: str, way: str, size: int) -> Run:
    """Prepare our network in PyTorch: eager, in channels-last memory, or compiled (in channels-last memory)."""
    from atrous.weights import load

    if way == "eager":
        return prepare_engine(weights, EAGER, "float32", (size, size), 1, None)
    model = load(weights)
    return prepare_pytorch(model, model.scores, way, size)


def prepare_other(library: str, name: str, way: str, size: int) -> Run:
    """Prepare the network of another library in PyTorch, up to its coarse scores where the library allows it."""
    import torch

    # The operators that torchvision registers are compiled; two of their schemas let it import without them.
    operators = torch.library.Library("torchvision", "FRAGMENT")
    operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torch.manual_seed(0)
    if library == "smp":
        import segmentation_models_pytorch

        model = segmentation_models_pytorch.DeepLabV3Plus(name, encoder_weights=None, classes=21).eval()
        model.segmentation_head[1] = torch.nn.Identity()  # the resize to the image
        network = model
    else:
        import torchvision

        build = getattr(torchvision.models.segmentation, name)
        model = build(weights=None, weights_backbone=None, num_classes=21).eval()

        def network(image: torch.Tensor) -> torch.Tensor:
            return model.classifier(model.backbone(image)["out"])

    run = prepare_pytorch(model, network, way, size)

    def without_result() -> None:
        run()
        assert operators is not None  # kept alive, or the operators vanish

    return without_result


def prepare_pytorch(model: Any, network: Any, way: str, size: int) -> Run:
    """Prepare a forward pass in PyTorch."""
    import torch

    image = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32))
    if way != "eager":
        model.to(memory_format=torch.channels_last)
        image = image.to(memory_format=torch.channels_last)
    if way == "compile":
        network = torch.compile(network)

    def run() -> Any:
        with torch.inference_mode():
            return network(image).contiguous().numpy()

    return run


def prepare_tflite(path: str) -> Run:
    """Prepare the TensorFlow Lite runtime, with its XNNPACK kernels and a thread for each core."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=len(os.sched_getaffinity(0)))
    interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]
    image = np.random.default_rng(0).integers(0, 255, entry["shape"]).astype(entry["dtype"])
    interpreter.set_tensor(entry["index"], image)
    return interpreter.invoke


if __name__ == "__main__":
    main()
