"""Speed, memory and scaling of the dense CRF, measured against pydensecrf2 in the same run.

    PYTHONPATH=src python benchmarks/crf.py --data ../shared/data -o crf_scaling.png

Prints the ratio of whole calls with all classes and with pruning on a real network's output, the peak memory of either
package in its own process, the bytes that each stage has to move and how far above that floor it runs, and the time per
pixel up to 2048x1024x19. Medians over rounds in which both packages take turns, after a warm-up.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

WIDTH, HEIGHT, CLASSES, ITERATIONS = 500, 375, 21, 10


def load_image(data: Path, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    image = cv2.cvtColor(cv2.imread(str(data / "images/pets.jpg")), cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def network_probabilities(image: np.ndarray, weights: Path) -> np.ndarray:
    """Compute the softmax of a released DeepLab v3's logits, (21, H, W), by the TensorFlow Lite runtime."""
    from ai_edge_litert.interpreter import Interpreter

    network = Interpreter(str(weights), num_threads=2)
    network.allocate_tensors()
    inputs, outputs = network.get_input_details()[0], network.get_output_details()[0]
    squeezed = cv2.resize(image, (257, 257), interpolation=cv2.INTER_LINEAR).astype(np.float32) / 127.5 - 1
    network.set_tensor(inputs["index"], squeezed[None])
    network.invoke()
    logits = network.get_tensor(outputs["index"])[0]
    planes = [
        cv2.resize(plane, image.shape[1::-1], interpolation=cv2.INTER_LINEAR) for plane in logits.transpose(2, 0, 1)
    ]
    return softmax(np.stack(planes))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(0))
    return (powers / powers.sum(0)).astype(np.float32)


def synthetic_probabilities(classes: int, height: int, width: int) -> np.ndarray:
    """Make smooth random probabilities in which every class is the arg-max somewhere."""
    noise = np.random.default_rng(0).normal(size=(classes, height // 16 + 2, width // 16 + 2)).astype(np.float32)
    return softmax(4 * np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_CUBIC) for plane in noise]))


def ours(image: np.ndarray, probabilities: np.ndarray, **options: Any) -> np.ndarray:
    from atrous.crf import Bilateral, CRFPreset, Gaussian, dense_crf

    crf = CRFPreset(Gaussian(3, 3), Bilateral(4, 67, 3), iterations=ITERATIONS)
    return dense_crf(image, probabilities, crf, **options)


def theirs(image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    import pydensecrf.densecrf as dcrf
    from pydensecrf.utils import unary_from_softmax

    classes, height, width = probabilities.shape
    crf = dcrf.DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(unary_from_softmax(probabilities))
    crf.addPairwiseGaussian(sxy=3, compat=3)
    crf.addPairwiseBilateral(sxy=67, srgb=3, rgbim=image, compat=4)
    return np.array(crf.inference(ITERATIONS)).reshape(probabilities.shape)


def timed(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def speed(image: np.ndarray, real: np.ndarray, prune: float, rounds: int) -> None:
    synthetic = synthetic_probabilities(CLASSES, HEIGHT, WIDTH)
    for name, probabilities, options in (
        ("all classes, synthetic output", synthetic, {}),
        ("all classes, network's output", real, {}),
        (f"pruned at {prune}, network's output", real, {"prune": prune}),
    ):
        refined, expected = ours(image, probabilities, **options), theirs(image, probabilities)
        run_ours, run_theirs = partial(ours, image, probabilities, **options), partial(theirs, image, probabilities)
        pairs = [(timed(run_ours), timed(run_theirs)) for _ in range(rounds)]
        mine, others = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
        ratios = sorted(b / a for a, b in pairs)
        kept = int((probabilities.max((1, 2)) > options.get("prune", 0)).sum())
        difference = np.abs(refined - expected)
        print(
            f"{name}: {kept} of {CLASSES} classes; atrous {mine * 1e3:.0f} ms, pydensecrf2 {others * 1e3:.0f} ms, "
            "ratio "
            f"{statistics.median(ratios):.2f} (paired median; {ratios[0]:.2f} to {ratios[-1]:.2f} in {rounds} rounds)\n"
            f"    max |dQ| {difference.max():.1e}, mean {difference.mean():.1e}, equal labels "
            f"{100 * (refined.argmax(0) == expected.argmax(0)).mean():.4f} %"
        )


def torch_path(image: np.ndarray, real: np.ndarray) -> None:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensor = torch.from_numpy(real).to(device)

    def run() -> Any:
        result = ours(image, tensor, backend="torch")
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    difference = np.abs(run().cpu().numpy() - ours(image, real)).max()
    print(f"torch on {device}: {min(timed(run) for _ in range(3)) * 1e3:.0f} ms, max |dQ| from numba {difference:.1e}")
    if device == "cpu":
        print("torch on a GPU: not run, no GPU available")


def peak_memory(data: Path, weights: Path, prune: float) -> None:
    """Measure how far one call of either package raises the memory of a process that holds image and probabilities.

    Each has run on a small image before, so that compilation on the first call is not counted.
    """
    marks = {}
    for which in ("theirs", "ours", "pruned"):
        command = [sys.executable, __file__, "--data", str(data), "--weights", str(weights), "--prune", str(prune)]
        out = subprocess.run([*command, "--only", which], capture_output=True, text=True, check=True, env=os.environ)
        marks[which] = [float(line) for line in out.stdout.split()]
    for which, label in (("theirs", "pydensecrf2"), ("ours", "atrous"), ("pruned", "atrous, pruned")):
        total, before = marks[which]
        print(f"peak memory {label}: {total - before:.0f} MB above the process before its call, {total:.0f} MB in all")


def high_water(reset: bool = False) -> float:
    """Return the peak resident memory of this process in MB; `reset` sets it to the present memory first (Linux)."""
    status = Path("/proc/self/status")
    if not status.exists():  # elsewhere the peak is inherited from the parent and cannot be reset
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def run_once(which: str, data: Path, weights: Path, prune: float) -> None:
    image = load_image(data)
    probabilities = network_probabilities(image, weights)
    small = (
        image[:32, :32].copy(),
        np.ascontiguousarray(probabilities[:, :32, :32] / probabilities[:, :32, :32].sum(0)),
    )
    options = {"prune": prune} if which == "pruned" else {}
    if which == "theirs":
        theirs(*small)
    else:
        ours(*small, **options)  # compiles or loads the kernels
    before = high_water(reset=True)
    if which == "theirs":
        theirs(image, probabilities)
    else:
        ours(image, probabilities, **options)
    print(high_water(), before)


def floor(image: np.ndarray, real: np.ndarray) -> None:
    """Compare each stage of an update to the bytes it has to move, at the rate at which one thread copies arrays."""
    from atrous.crf import Bilateral, DenseCRF, Gaussian
    from atrous.crf.numba_backend.filter_jit import blur_chunk, splat_band
    from atrous.crf.numba_backend.mean_field import MeanFieldState, Unary
    from atrous.crf.numba_backend.mean_field_jit import update_chunk
    from atrous.crf.numba_backend.threads import limit_threads, thread_count

    source = np.ones(64 << 20, np.uint8)
    target = np.empty_like(source)
    rate = 2 * source.size / min(timed(lambda: np.copyto(target, source)) for _ in range(9))
    crf = DenseCRF(image, Gaussian(3, 3), Bilateral(4, 67, 3))
    build = timed(lambda: crf.mean_field)
    lattice, weights = crf.mean_field.lattice, crf.mean_field.splat_weights
    compatibilities = [term.scaled_compatibility(len(real)) for term in crf.terms]
    state = MeanFieldState(crf.mean_field, Unary.build(real.reshape(len(real), -1)), compatibilities)
    panels, values, count = state._panels, state._vertex_values, len(state.logits)
    pixels, vertices, bands = lattice.num_points, values.nbytes, range(len(lattice.bounds) - 1)
    corners, panel, listed = lattice.corner_rows.nbytes + lattice.barycentric.nbytes, 32 * pixels, lattice.runs.size
    class_weights, source_index = np.ones((2, count, 8), np.float32), np.zeros(2, np.int64)
    arrays = (class_weights, lattice.corner_rows, weights, lattice.columns, lattice.bounds, values)
    splat = (panels, 0, source_index, *arrays)
    update = (lattice.corner_rows, weights, values, state.logits, panels[0])
    axes = [lattice.runs[a:b] for a, b in pairwise(lattice.axis_starts)]
    stages = {
        "clear": (vertices, lambda: values.fill(0)),
        "splat": (corners + panel + 2 * vertices, lambda: [splat_band(*splat, band) for band in bands]),
        "blur, all axes": (listed * (4 + 2 * 32), lambda: [blur_chunk(runs, values, 0, 1) for runs in axes]),
        "slice and add": (corners + vertices + 2 * panel, lambda: update_chunk(*update, 0, 0, pixels, False)),
        "slice, add, softmax": (
            corners + vertices + 2 * count * panel,
            lambda: update_chunk(*update, count - 1, 0, pixels, False),
        ),
    }
    print(
        f"floor: one thread copies {rate / 1e9:.1f} GB/s; {pixels} pixels, {lattice.num_vertices} vertices, "
        f"{count} panels"
    )
    print(f"    lattices built once in {build * 1e3:.1f} ms by {thread_count(pixels)} threads, row sums included")
    total = 0
    for name, (moved, run) in stages.items():
        seconds = min(timed(run) for _ in range(15))
        times = {"slice and add": count - 1, "slice, add, softmax": 1}.get(name, count)
        total += moved * times
        print(
            f"    {name}, one panel, one thread: {moved / 1e6:.1f} MB, {seconds * 1e3:.2f} ms, "
            f"{seconds * rate / moved:.2f} x the floor; {times} of them in an update"
        )
    for threads in (1, thread_count(pixels)):
        with limit_threads(threads):
            step = min(timed(state.step) for _ in range(15))
        print(
            f"    one update, {threads} threads: {total / 1e6:.0f} MB, {step * 1e3:.2f} ms, "
            f"{step * rate / total:.2f} x the one-thread floor"
        )


def scaling(data: Path, output: Path | None, largest: int) -> None:
    """Time whole calls with 19 classes from 256x128 to 2048x1024."""
    sizes, mine, others = [], [], []
    for scale in (1, 2, 3, 4, 6, 8):
        width, height = 256 * scale, 128 * scale
        if width > largest:
            break
        image, probabilities = load_image(data, width, height), synthetic_probabilities(19, height, width)
        sizes.append(width * height)
        mine.append(min(timed(partial(ours, image, probabilities)) for _ in range(2)))
        others.append(timed(partial(theirs, image, probabilities)))
        print(
            f"{width}x{height}x19: atrous {mine[-1]:.3f} s, {mine[-1] / sizes[-1] * 1e6:.2f} us per pixel; "
            f"pydensecrf2 {others[-1]:.3f} s, {others[-1] / sizes[-1] * 1e6:.2f} us per pixel"
        )
    slope = np.polyfit(np.log(sizes), np.log(mine), 1)[0]
    print(f"time grows as pixels to the power {slope:.2f}")
    if output is not None:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        megapixels = np.array(sizes) / 1e6
        axes.plot(megapixels, others, "o-", label="pydensecrf2 1.1")
        axes.plot(megapixels, mine, "o-", label="atrous")
        axes.set(xlabel="megapixels", ylabel="seconds", title="dense CRF, 19 classes, 10 updates, whole call")
        axes.legend()
        axes.grid(alpha=0.3)
        figure.savefig(output, dpi=120)
        print(f"plot: {output}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(os.environ.get("ATROUS_TEST_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=root)
    parser.add_argument("--weights", type=Path, default=os.environ.get("ATROUS_WEIGHTS"), help="a DeepLab v3 .tflite")
    parser.add_argument("--prune", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--largest", type=int, default=2048, help="width at which to stop the scaling test")
    parser.add_argument("-o", "--output", type=Path, help="where to draw the scaling plot (needs matplotlib)")
    parser.add_argument("--only", choices=["theirs", "ours", "pruned"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    weights = args.weights or args.data / "weights/deeplabv3_257_mv_gpu.tflite"
    if args.only:
        run_once(args.only, args.data, weights, args.prune)
        return
    from atrous.crf.numba_backend.threads import thread_count

    threads = thread_count(WIDTH * HEIGHT)
    print(f"{WIDTH}x{HEIGHT}, {ITERATIONS} updates, Gaussian 3 + bilateral 67/3; {threads} threads")
    image = load_image(args.data)
    real = network_probabilities(image, weights)
    speed(image, real, args.prune, args.rounds)
    peak_memory(args.data, weights, args.prune)
    floor(image, real)
    torch_path(image, real)
    scaling(args.data, args.output, args.largest)


if __name__ == "__main__":
    main()
