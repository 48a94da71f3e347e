"""Compare the heads of several papers on one backbone and one budget: accuracy, cost and memory.

    python benchmarks/heads.py --data camvid:/data/CamVid -o runs/heads [--steps 500] [--minutes 120] [--only v3]
        [--mobilenet-weights tf2_mobilenet_v2_1.0_224_ptq.tflite]

Each network has its full width, its default output stride, and a backbone with ImageNet weights:
EfficientNet-Lite0, and MobileNetV2 for some. All are trained with the same steps, crops, augmentation and schedule; the
learning rate is that of three with the best mIoU after a short training of its own. Two seeds each. SegNet does not
apply: its decoder needs the pooling indices of VGG.

The script goes on where it was stopped, and stops by itself after `--minutes`. It writes the figures of each training
to `heads.csv` in `--results`, the search to `heads_search.csv`, a plot of mIoU against time per image, and prints the
table of what is finished. What the tables have is not trained again: to repeat the comparison, give an empty folder.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

from trainings import OutOfTimeError, Rows, Trainings, mean_and_spread, parse_arguments

from atrous import load
from atrous.analysis.counts import count_parameters, multiply_adds
from atrous.inference.benchmark import benchmark_engines
from atrous.models import SegmentationModel

LITE0, MOBILENET = "efficientnet_lite0", "mobilenet_v2"
NETWORKS = (
    ("FCN-8s", "fcn_8s_at_once", LITE0),
    ("LargeFOV (DeepLab v1)", "deeplab_v1", LITE0),
    ("ASPP-L (DeepLab v2)", "deeplab_v2", LITE0),
    ("PSPNet", "pspnet", LITE0),
    ("RefineNet", "refinenet", LITE0),
    ("GCN", "gcn", LITE0),
    ("U-Net", "unet", LITE0),
    ("DeepLab v3", "deeplab_v3", LITE0),
    ("DeepLab v3+", "deeplab_v3_plus", LITE0),
    ("PSPNet", "pspnet", MOBILENET),
    ("DeepLab v3", "deeplab_v3", MOBILENET),
    ("DeepLab v3+", "deeplab_v3_plus", MOBILENET),
)
RATES = ("1.0e-4", "3.0e-4", "1.0e-3")
SEARCH_STEPS = 100
SEEDS = (1, 2)
SIZE = (360, 480)
THIN = ("pole", "sign", "fence", "pedestrian", "bicyclist")
BUDGET = (
    "preprocessing.grid=16",
    "transforms=[{scale: {low: 0.5, high: 2.0}}, {crop: {height: 257, width: 337}}, flip, "
    "{color: {brightness: 0.3, contrast: 0.3, saturation: 0.3, hue: 0.02}}]",
    "batch=8",
    "workers=1",
    "precision=bf16-mixed",
    "channels_last=true",
    "warmup.steps=50",
    "evaluate={every: 0, max_images: 8, samples: 0}",  # the whole split is evaluated afterwards
    "checkpoint_every=50",
)


Groups = list[tuple[str, str, list[dict[str, Any]]]]
"""Title, backbone, and rows of the seeds of each network."""


def overrides(model: str, backbone: str, rate: str, steps: int, seed: int) -> tuple[str, ...]:
    """Describe a training of the comparison, except for the weights of its backbone."""
    optimizer = f"optimizer={{name: adamw, lr: {rate}, weight_decay: 0.01, lr_mult: {{head: 5}}}}"
    average = f"ema={0.98 if steps > SEARCH_STEPS else 0}"
    return f"model={model}", f"model.options.backbone={backbone}", optimizer, average, f"steps={steps}", f"seed={seed}"


def choose_weights(backbone: str, file: str) -> tuple[str, ...]:
    """Name the ImageNet weights of a backbone: the registered ones, or the `file` of MobileNetV2."""
    if backbone != MOBILENET or not file:
        return ("backbone_weights=imagenet",)
    padding = ("model.options.backbone_options={padding: tensorflow}",) if file.endswith(".tflite") else ()
    return f"backbone_weights={file}", *padding


def search_rate(trainings: Trainings, model: str, backbone: str, weights: tuple[str, ...], rows: Rows) -> str:
    """Find the learning rate with the best mIoU after a short training."""
    scores = {}
    for rate in RATES:
        name = f"search/{model}.{backbone}.{rate}"
        row = rows.find(model, backbone, rate)
        if row is None or trainings.finished(name):
            trainings.train(name, (*overrides(model, backbone, rate, SEARCH_STEPS, 0), *weights))
            row = rows.add((model, backbone, rate), trainings.evaluate(name))
        scores[rate] = row["miou"]
    return max(scores, key=lambda rate: scores[rate])


def measure_cost(weights: Path) -> dict[str, float]:
    """Count parameters and multiply-adds, and measure milliseconds per image of the CPU's default engine."""
    model = load(weights)
    assert isinstance(model, SegmentationModel)
    timing = benchmark_engines(weights, [("onnxruntime", "float32")], size=SIZE).timings[-1]
    return {
        "output_stride": model.output_stride,
        "parameters": count_parameters(model),
        "multiply_adds": multiply_adds(model, *SIZE),
        "milliseconds": 1000 * timing.median,
    }


def main() -> None:
    """Train what is not trained yet, and tell what is."""
    file = "ImageNet weights of MobileNetV2, instead of those that are downloaded"
    arguments = parse_arguments(__doc__, 500, "networks", mobilenet_weights=file)
    trainings = Trainings(arguments.out, arguments.data, shared=BUDGET, end=arguments.end)
    rows = Rows(arguments.results / "heads.csv", ("title", "network", "backbone", "steps", "seed", "rate"))
    searched = Rows(arguments.results / "heads_search.csv", ("network", "backbone", "rate"))
    for title, model, backbone in NETWORKS:
        if arguments.only not in f"{model}.{backbone}":
            continue
        start = choose_weights(backbone, arguments.mobilenet_weights)
        try:
            rate = search_rate(trainings, model, backbone, start, searched)
            for seed in SEEDS:
                name = f"{model}.{backbone}.{arguments.steps}.{seed}"
                keys = title, model, backbone, arguments.steps, seed, rate
                if rows.find(*keys) and not trainings.finished(name):
                    continue
                weights = trainings.train(name, (*overrides(model, backbone, rate, arguments.steps, seed), *start))
                figures = trainings.evaluate(name) | trainings.describe(name)
                rows.add(keys, figures | measure_cost(weights / "last.safetensors"))
        except OutOfTimeError:
            print(f"{title}, {backbone}: not finished; the same command continues", file=sys.stderr)
    groups = group_seeds([row for row in rows.rows if row["steps"] == str(arguments.steps)])
    print_table(groups)
    plot(groups, arguments.out / "heads.png")


def group_seeds(rows: list[dict[str, Any]]) -> Groups:
    """Group the rows of the seeds of each network."""
    return [
        (title, backbone, group)
        for title, model, backbone in NETWORKS
        if (group := [row for row in rows if (row["network"], row["backbone"]) == (model, backbone)])
    ]


def print_table(groups: Groups) -> None:
    """Print the means over the seeds as Markdown."""
    names = ("output stride", "mIoU", "boundary F", "mIoU within 5 pixels of boundaries", "thin classes", "parameters")
    names = (*names, "multiply-adds", "ms per image", "memory in training")
    print(f"\n| network | backbone | {' | '.join(names)} |\n|---|---|{'---:|' * len(names)}")
    for title, backbone, group in groups:
        cells = [
            str(group[0]["output_stride"]),
            *(mean_and_spread([row[key] for row in group]) for key in ("miou", "boundary_f", "trimap_5")),
            mean_and_spread([statistics.mean(row[f"iou {name}"] for name in THIN) for row in group]),
            f"{group[0]['parameters'] / 1e6:.1f} M",
            f"{group[0]['multiply_adds'] / 1e9:.1f} G",
            f"{statistics.median(row['milliseconds'] for row in group):.0f}",
            f"{max(row['training_mib'] for row in group) / 1024:.1f} GiB",
        ]
        print(f"| {title} | {backbone} | {' | '.join(cells)} |")


def plot(groups: Groups, path: Path) -> None:
    """Draw mIoU, from the lowest to the highest of the seeds, against milliseconds per image."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    colors = {LITE0: "C0", MOBILENET: "C1"}
    figure = Figure((7, 4.5), layout="constrained")
    axes = figure.subplots()
    for title, backbone, group in groups:
        x = statistics.median(row["milliseconds"] for row in group)
        scores = [row["miou"] for row in group]
        axes.plot([x, x], [min(scores), max(scores)], colors[backbone], marker="_")
        middle = x, statistics.mean(scores)
        axes.annotate(title, middle, xytext=(5, 0), textcoords="offset points", fontsize=8, va="center")
    for backbone, color in colors.items():
        axes.plot([], [], color, label=backbone)
    axes.legend()
    axes.set(xscale="log", xlabel="milliseconds per image of 480 x 360", ylabel="mIoU, CamVid val")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(ScalarFormatter())
    axes.margins(x=0.3)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
