"""Test the papers' findings again: DeepLab v3 and v3+ on EfficientNet-Lite0 and CamVid, one change at a time.

    python benchmarks/findings.py --data camvid:/data/CamVid -o runs/findings [--steps 3000] [--minutes 120] [--only v3]

All trainings have the same steps of 8 crops, augmentation, optimizer and schedule, and two seeds. Some findings need no
training of their own: output stride, scales, mirror images and the CRF at test time. Multi-grid (v3, table 3) needs a
ResNet, whose blocks it was made for.

The script goes on where it was stopped, and stops by itself after `--minutes`. It writes the figures of each evaluation
to `findings.csv` in `--results`, and prints the table of what is finished. What the table has is not trained again: to
repeat the comparison, give an empty folder.

Source: DeepLab v3, tables 1 to 8 and 10; v3+, tables 1 and 3; v1 and v2, the CRF.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from heads import BUDGET, LITE0, SEEDS
from trainings import OutOfTimeError, Rows, Trainings, mean_and_spread, parse_arguments


class Finding(NamedTuple):
    """A training by the overrides that it differs in, and the evaluations of it by their titles and options."""

    name: str
    title: str
    overrides: tuple[str, ...] = ()
    evaluations: tuple[tuple[str, str, dict[str, Any]], ...] = ()


V1, V3, V3_PLUS = (
    (f"model={name}", f"model.options.backbone={LITE0}") for name in ("deeplab_v1", "deeplab_v3", "deeplab_v3_plus")
)
STRIDE8 = ("stride8", "evaluated at output stride 8", {"output_stride": 8})
SCALES = ("scales", "with six scales and mirror images", {"tta": "v3"})
CRF = ("crf", "with the CRF of v2", {"crf": "v2"})
FINDINGS = (
    Finding(
        "v3",
        "v3, output stride 16",
        V3,
        (
            STRIDE8,
            ("stride32", "evaluated at output stride 32", {"output_stride": 32}),
            ("flip", "with mirror images", {"tta": "flip"}),
            SCALES,
            ("scales8", "with six scales and mirror images, at output stride 8", {"tta": "v3", "output_stride": 8}),
            CRF,
        ),
    ),
    Finding("v3.stride8", "v3, output stride 8", (*V3, "model.options.output_stride=8")),
    Finding("v3.stride32", "v3, output stride 32", (*V3, "model.options.output_stride=32")),
    Finding("v3.frozen", "v3, batch normalization frozen", (*V3, "batch_norm=frozen")),
    Finding("v3.labels", "v3, labels downsampled by 16 instead of logits upsampled", (*V3, "loss_stride=16")),
    Finding("v3.no_pooling", "v3, ASPP without image pooling", (*V3, "model.options.image_pooling=false")),
    Finding("v3.rates2", "v3, rates 12, 24, 36", (*V3, "model.options.atrous_rates=[12, 24, 36]")),
    Finding("v3_plus", "v3+, decoder with 48 channels", V3_PLUS, (STRIDE8, SCALES, CRF)),
    *(
        Finding(
            f"v3_plus.{channels}",
            f"v3+, decoder with {channels} channels",
            (*V3_PLUS, f"model.options.low_level_channels={channels}"),
        )
        for channels in (16, 32, 64)
    ),
    Finding("v1", "v1, LargeFOV at output stride 8", V1, (CRF,)),
)
OPTIMIZER = "optimizer={name: adamw, lr: 3.0e-4, weight_decay: 0.01, lr_mult: {head: 5}}"
SHARED = (*BUDGET, OPTIMIZER, "ema=0.98", "backbone_weights=imagenet")


def main() -> None:
    """Train and evaluate what is not yet, and tell what is."""
    arguments = parse_arguments(__doc__, 3000, "findings")
    trainings = Trainings(arguments.out, arguments.data, shared=SHARED, end=arguments.end)
    rows = Rows(arguments.results / "findings.csv", ("training", "evaluation", "steps", "seed"))
    for finding in FINDINGS:
        if arguments.only not in finding.name:
            continue
        evaluations = (("plain", "", {}), *finding.evaluations)
        try:
            for seed in SEEDS:
                name = f"{finding.name}.{arguments.steps}.{seed}"
                known = all(rows.find(finding.title, title, arguments.steps, seed) for _, title, _ in evaluations)
                if known and not trainings.finished(name):
                    continue
                trainings.train(name, (*finding.overrides, f"steps={arguments.steps}", f"seed={seed}"))
                for key, title, options in evaluations:
                    figures = trainings.evaluate(name, key, **options) | trainings.describe(name)
                    rows.add((finding.title, title, arguments.steps, seed), figures)
        except OutOfTimeError:
            print(f"{finding.title}: not finished; the same command continues", file=sys.stderr)
    print("\n| training | evaluation | mIoU | boundary F | s per step |\n|---|---|---:|---:|---:|")
    finished = [row for row in rows.rows if row["steps"] == str(arguments.steps)]
    for title in dict.fromkeys((row["training"], row["evaluation"]) for row in finished):
        group = [row for row in finished if (row["training"], row["evaluation"]) == title]
        cells = (mean_and_spread([row[key] for row in group]) for key in ("miou", "boundary_f"))
        print(f"| {' | '.join((*title, *cells))} | {group[0]['seconds_per_step']:.1f} |")


if __name__ == "__main__":
    main()
