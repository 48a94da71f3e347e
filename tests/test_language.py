"""The words of the code: names that were replaced stay away, and spelling is American, as torch's."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "docs").glob("*.py"))]
FILES = [*SOURCES, *RECIPES, *PAGES]

REPLACED = {
    # training
    r"\bKeeper\b": "the loop in training/train.py",
    r"\bJudge?ments?\b|\b[Jj]udge[ds]?\b|\b[Jj]udging\b": "validate, evaluate, ValidationResult",
    r"\bPortions\b": "StepBatchSampler",
    r"\bDraws\b": "AugmentedDataset",
    r"\btraining[./](feed|start|keeper|task|run|build)\b": "loader, initialize, config, train",
    r"\b(class Started|Started\()": "LoadReport",
    r"\bclass Part\b|\(Part\):": "StrictModel",
    r"\b(Model|Data|WarmUp|Loss|Schedule|Transform|Class)Entry\b": "*Config",
    r"\blay_out\b": "expand_stages",
    r"\bdef (whole|like|every)\(": "gather, shard_like, subsample",
    r"\bhard_pixels\b|\bHardPixels\b": "ohem",
    # inference
    r"\bevidence\b|Evidence\b": "CoarsePrediction, TiledPrediction",
    r"\blook_once\b|\blook_in_crops\b|\bdef look\b": "run_views, run_views_fused, run_crops",
    r"\binference[./](multiscale|prepare|evidence|argmax|pipeline)\b": "tta, preprocess, prediction, prefetch",
    r"\bahead\(|\bclass Behind\b|\bBehind\(": "prefetch, BackgroundWorker",
    r"\.shares\(\)|\bdef shares\b": "class_fractions",
    # crf
    r"\b(engine|lattice|filter)_numba\b|\blattice_torch\b|\btorch_field\b": "numba_backend/, torch_backend/",
    r"\bcrf[./](engine|team|parameters|inputs|rnn)\b": "numba_backend/, threads, kernels, validation, crf_rnn",
    r"\btogether\(|\bteam\b": "run_parallel, threads",
    r"\bcouplings?\b": "compatibility",
    # models, layers, analysis
    r"\.supervised\b|\bdef supervised\b|\bsupervised=": "training_outputs",
    r"\bonly_resizes\b": "output_is_resized_scores",
    r"\b[Tt]runk\b": "backbone",
    r"\bdef see\b|\.see\(": "context",
    r"\bclass Double\b|\bDouble\(": "LearnedUpsample2x",
    r"\bdef (binned|scattered)\b|\bspans\.(binned|scattered)\b": "adaptive_pool, transposed_conv",
    # data
    r"\bclass Look\b|\bLook\(": "ImageReport",
    r"\b_stranger\b": "_unknown_value_error",
    r"authors=\"you\"": "no paper where there is none",
    # prose
    r"\bso-manieth\b|\banew\b|\bcannot be had\b|\bis none that\b|\bare none that\b": "plain present-day English",
}
"""What is not to come back, each with what stands in its place."""

BRITISH = (
    r"colour|normalis|optimis[ei]|licenc|synchronis|initialis|quantis|centre|(?<!Gr)\bgrey|neighbour|behaviour|learnt|"
    r"labelled|labelling|modelling|cancelled(?!\(\))|analys(e[ds]|ing)\b|generalis|recognis|minimis|maximis|summaris|favour"
)
"""British spellings; `cancelled()` is a method of Python's futures."""

RECIPE_KEYS = r"(?m)(^\s*|[{,]\s*)(head|bias|clip|fixed|hard_pixels|optimiser|warm_up|bootstrap|about):"


def read(path: Path) -> str:
    """Return the text of a file without tables of old names, which have to name them."""
    return re.sub(r"(?mis)^\s*\w*(renamed|old)_keys\b[^\n]*\{.*?\}[^\n]*\n", "", path.read_text("utf-8"))


def occurrences(pattern: str, paths: list[Path]) -> list[str]:
    """Return every line that matches a pattern, with its file; lines on files of version 0.1 may name its words."""
    return [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in paths
        for line in read(path).splitlines()
        if re.search(pattern, line) and "version 0.1" not in line
    ]


@pytest.mark.parametrize("pattern", REPLACED)
def test_replaced_names_are_gone(pattern: str) -> None:
    lines = occurrences(pattern, FILES)
    assert not lines, "\n".join([f"use {REPLACED[pattern]} instead:", *lines])


def test_spelling_is_american() -> None:
    lines = occurrences(BRITISH, FILES)
    assert not lines, "\n".join(lines)


def test_recipes_use_the_keys_of_today() -> None:
    texts = {path.name: re.sub(r"\blr_mult: \{.*?\}", "", path.read_text("utf-8")) for path in RECIPES}
    assert not [name for name, text in texts.items() if re.search(RECIPE_KEYS, text)]


def test_variables_are_nouns_of_the_field() -> None:
    words = {"found", "how", "given", "made", "told", "which", "what"}
    named = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            name = node.arg if isinstance(node, ast.arg) else getattr(node, "id", "")
            stored = isinstance(node, ast.arg) or isinstance(getattr(node, "ctx", None), ast.Store)
            if stored and name in words:
                named.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")  # type: ignore[attr-defined]
    assert not named, "\n".join(named)
