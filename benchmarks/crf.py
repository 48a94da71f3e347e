"""Speed, memory and scaling of the dense CRF, measured against pydensecrf2 in the same run.

    PYTHONPATH=src python benchmarks/crf.py --data DATA -o crf_scaling.png

Prints the ratio of whole calls on random smooth classes and on a real network's output, with all classes and with
absent ones pruned, on one thread and on all; the peak memory of either package in its own process; the time of each
stage of a call, the bytes that a stage of an update has to move and how far above that floor it runs; and the time per
pixel up to 2048x1024x19. Medians over rounds in which both packages take turns, after a warm-up. `--brief` prints the
ratios and the stages only.
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


def smooth_probabilities(present: int) -> np.ndarray:
    """Make probabilities of 21 random smooth classes, of which `present` are the arg-max somewhere."""
    noise = np.random.default_rng(1).normal(size=(CLASSES, HEIGHT, WIDTH)).astype(np.float32)
    logits = np.stack([cv2.GaussianBlur(plane, (0, 0), 20) for plane in noise])
    logits *= 3 / logits.std()
    logits[present:] -= 12
    return softmax(logits)


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
    from atrous.crf.numba_backend.threads import limit_threads, thread_count

    for name, probabilities, options in (
        ("21 random smooth classes", smooth_probabilities(CLASSES), {}),
        (f"5 of 21 random smooth classes, pruned at {prune}", smooth_probabilities(5), {"prune": prune}),
        ("network's output", real, {}),
        (f"network's output, pruned at {prune}", real, {"prune": prune}),
    ):
        kept = int((probabilities.max((1, 2)) > options.get("prune", 0)).sum())
        for threads in sorted({1, thread_count(WIDTH * HEIGHT)}):
            with limit_threads(threads):
                refined, expected = ours(image, probabilities, **options), theirs(image, probabilities)
                run_ours = partial(ours, image, probabilities, **options)
                run_theirs = partial(theirs, image, probabilities)
                pairs = [(timed(run_ours), timed(run_theirs)) for _ in range(rounds)]
            mine, others = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
            least_mine, least_others = (min(pair[i] for pair in pairs) for i in (0, 1))
            ratios = sorted(b / a for a, b in pairs)
            difference, equal = np.abs(refined - expected), (refined.argmax(0) == expected.argmax(0)).mean()
            print(
                f"{name}, {kept} kept, {threads} thread(s): atrous {mine * 1e3:.0f} ms (least {least_mine * 1e3:.0f}), "
                f"pydensecrf2 {others * 1e3:.0f} ms (least {least_others * 1e3:.0f})\n"
                f"    ratio {statistics.median(ratios):.2f} (paired median; {ratios[0]:.2f} to {ratios[-1]:.2f} in "
                f"{rounds} rounds), of the least times {least_others / least_mine:.2f}\n"
                f"    max |dQ| {difference.max():.1e}, mean {difference.mean():.1e}, equal labels {100 * equal:.4f} %"
            )


def torch_path(image: np.ndarray, real: np.ndarray) -> None:
    try:
        import torch
    except ImportError:
        print("torch: not run, not installed")
        return

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


def stages(image: np.ndarray, probabilities: np.ndarray, prune: float) -> None:
    """Print the time of every stage of a call, on one thread: the lattices, the unaries, an update, the output."""
    from atrous.crf import Bilateral, DenseCRF, Gaussian
    from atrous.crf.numba_backend import lattice, mean_field
    from atrous.crf.numba_backend.mean_field import MeanFieldState, Unary
    from atrous.crf.numba_backend.threads import limit_threads
    from atrous.crf.validation import checked_probabilities

    times: dict[str, list[list[float]]] = {}
    run_parallel = lattice.run_parallel

    def recorded(points: int, count: int, function: Any, *args: Any) -> None:
        seconds = timed(partial(run_parallel, points, count, function, *args))
        times.setdefault(function.__name__, [[] for _ in range(9)])[round_].append(seconds)

    out = np.empty_like(probabilities).reshape(len(probabilities), -1)
    lattice.run_parallel = mean_field.run_parallel = recorded
    try:
        with limit_threads(1):
            for round_ in range(9):
                other = timed(partial(checked_probabilities, probabilities))
                start = time.perf_counter()
                crf = DenseCRF(image, Gaussian(3, 3), Bilateral(4, 67, 3))
                other += time.perf_counter() - start
                unary = Unary.build(probabilities.reshape(out.shape), prune=prune)
                compatibilities = [term.scaled_compatibility(len(out)) for term in crf.terms]
                state = MeanFieldState(crf.mean_field, unary, compatibilities)
                state.step(ITERATIONS)
                state.write_probabilities(out)
                times.setdefault("features and checks (numpy)", [[] for _ in range(9)])[round_].append(other)
    finally:
        lattice.run_parallel = mean_field.run_parallel = run_parallel
    width = state.logits.shape[2]
    print(f"stages of a call on one thread, {len(unary.kept)} classes kept, rows of {width} floats; least of 9 rounds")
    for name, seconds in times.items():
        label = f"{name}, {ITERATIONS} steps" if name == "update" else name
        print(f"    {label}: {min(sum(each) for each in seconds) * 1e3:.2f} ms")


def copy_rate() -> float:
    """Measure at how many bytes per second one thread copies a large array, reads and writes counted."""
    source = np.ones(64 << 20, np.uint8)
    target = np.empty_like(source)
    return 2 * source.size / min(timed(lambda: np.copyto(target, source)) for _ in range(9))


def compiled_blur() -> Callable[..., None]:
    """Compile the whole blur of one panel, without the cost of a call from Python for each unit."""
    from numba import njit

    from atrous.crf.numba_backend.filter_jit import blur_unit

    @njit(nogil=True)
    def blur(runs: Any, segments: Any, units: Any, values: Any, lanes: Any) -> None:
        for unit in range(units.size - 1):
            blur_unit(runs, segments, units[unit], units[unit + 1], False, values, lanes)

    return blur  # type: ignore[no-any-return]


def floor(image: np.ndarray, real: np.ndarray, prune: float) -> None:
    """Compare each stage of an update to the bytes it has to move, at the rate at which one thread copies arrays."""
    from atrous.crf import Bilateral, DenseCRF, Gaussian
    from atrous.crf.numba_backend.filter_jit import splat_band
    from atrous.crf.numba_backend.mean_field import MeanFieldState, Unary
    from atrous.crf.numba_backend.mean_field_jit import update_chunk
    from atrous.crf.numba_backend.threads import limit_threads, thread_count

    blur = compiled_blur()
    rate = copy_rate()
    crf = DenseCRF(image, Gaussian(3, 3), Bilateral(4, 67, 3))
    build = timed(lambda: crf.mean_field)
    lattice, weights = crf.mean_field.lattice, crf.mean_field.splat_weights
    compatibilities = [term.scaled_compatibility(len(real)) for term in crf.terms]
    state = MeanFieldState(crf.mean_field, Unary.build(real.reshape(len(real), -1), prune=prune), compatibilities)
    panels, values, (count, pixels, width), lanes = (
        state._panels,
        state._vertex_values,
        state.logits.shape,
        state._lanes,
    )
    vertices, bands = values.nbytes, range(len(lattice.bounds) - 1)
    corners, panel = lattice.corner_rows.nbytes + lattice.barycentric.nbytes, 4 * width * pixels
    listed = int((lattice.segments[:, 1] - lattice.segments[:, 0]).sum())
    rounds = [lattice.num_vertices] * 2  # of the bilateral kernel; those of the other kernel's third round are few
    arrays = (state._class_weights, lattice.corner_rows, weights, lattice.columns, lattice.bounds, values, lanes)
    splat = (panels, 0, state._source_index, *arrays)
    update = (lattice.corner_rows, weights, values, state.logits, panels[0])
    sizes = {
        "clear": (vertices, lambda: values.fill(0)),
        "splat": (corners + panel + 2 * vertices, lambda: [splat_band(*splat, band) for band in bands]),
        "blur, all rounds": (
            4 * listed + 2 * 4 * width * sum(rounds),
            lambda: blur(lattice.runs, lattice.segments, lattice.units, values, lanes),
        ),
        "slice, add, softmax": (
            corners + vertices + 2 * panel,
            lambda: update_chunk(*update, count - 1, 0, pixels, False, lanes),
        ),
    }
    print(
        f"floor: one thread copies {rate / 1e9:.1f} GB/s; {pixels} pixels, {lattice.num_vertices} vertices, "
        f"{len(state.unary.kept)} classes kept, {count} panel(s) of {width}"
    )
    print(f"    lattices built once in {build * 1e3:.1f} ms by {thread_count(pixels)} threads, row sums included")
    total = count * sum(moved for moved, _ in sizes.values())
    for name, (moved, run) in sizes.items():
        run()
        seconds = min(timed(run) for _ in range(15))
        print(
            f"    {name}, one thread: {moved / 1e6:.1f} MB, {seconds * 1e3:.2f} ms, "
            f"{seconds * rate / moved:.2f} x the floor"
        )
    for threads in sorted({1, thread_count(pixels)}):
        with limit_threads(threads):
            step = min(timed(state.step) for _ in range(15))
        print(
            f"    one update, {threads} thread(s): {total / 1e6:.0f} MB, {step * 1e3:.2f} ms, "
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
    parser.add_argument("--brief", action="store_true", help="stop after the ratios and the stages")
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
    for probabilities, prune in ((smooth_probabilities(CLASSES), 0.0), (smooth_probabilities(5), args.prune)):
        stages(image, probabilities, prune)
        floor(image, probabilities, prune)
    if args.brief:
        return
    peak_memory(args.data, weights, args.prune)
    torch_path(image, real)
    scaling(args.data, args.output, args.largest)


if __name__ == "__main__":
    main()
