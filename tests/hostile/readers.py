"""Read files through the Python interface, and check what comes of them.

Each reader takes the path of a file, and that of an undamaged one of the same kind. It raises `AtrousError` for a file
that is refused, and `AlteredError` for a content that should have been.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from unittest import mock

import numpy as np
import torch

import atrous
from atrous import AtrousError, Segmenter
from atrous.card import Card
from atrous.crf import dense_crf
from atrous.data.classes_yaml import read_classes_yaml
from atrous.data.convert import convert
from atrous.data.datasets import camvid
from atrous.data.inspect import open_splits
from atrous.data.matlab import read_mat
from atrous.evaluation.evaluate import EvaluationResult
from atrous.evaluation.search_log import SearchLog
from atrous.imaging.archives import ArchiveError, read_npy
from atrous.imaging.io import read_image
from atrous.imaging.labels import MaskReader, read_raw_mask
from atrous.imaging.probabilities import read_probabilities
from atrous.inference.engines.cache import EngineCache
from atrous.inference.video import VideoReader
from atrous.training import train
from atrous.training.logs import METRICS, STEP_NUMBERS, StageLog, read_log
from atrous.training.recipe import read_recipe
from atrous.training.run_dir import prepare_run_dir
from atrous.weights.download import remembered_sha256
from atrous.weights.header import digest_file, read_header
from atrous.weights.hub import HubId, find_hub_file
from atrous.weights.importers import import_file

HARMLESS = ("error", "fine", "equal", "finite")


class AlteredError(Exception):
    """A content that is not what it claims to be."""


@lru_cache(maxsize=1)
def _tensors(valid: Path) -> dict[str, torch.Tensor]:
    return dict(atrous.load(valid).state_dict())


def weights(path: Path, valid: Path) -> str:
    """Load weights: the same tensors as the undamaged file, or finite ones of the same names and shapes."""
    state, expected = atrous.load(path).state_dict(), _tensors(valid)
    for key in state.keys() | expected.keys():
        if key not in state or key not in expected or state[key].shape != expected[key].shape:
            raise AlteredError(f"the tensor {key}")
        if state[key].is_floating_point() and not state[key].isfinite().all():
            raise AlteredError(f"{key} is not finite")
    return "equal" if all(torch.equal(state[key], expected[key]) for key in state) else "finite"


def image(path: Path, valid: Path) -> str:
    """Read an image by its path, and as bytes: the same pixels, or an error of both."""
    refused: AtrousError | None = None
    try:
        pixels = read_image(path)
    except AtrousError as error:
        refused = error
    try:
        same = read_image(path.read_bytes())
    except AtrousError:
        if refused is None:
            raise AlteredError("the bytes are refused, the file is not") from None
        raise refused from None
    if refused is not None:
        raise AlteredError(f"the file is refused, its bytes are not: {refused}")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise AlteredError(f"pixels of shape {pixels.shape}, {pixels.dtype}")
    # Where the data of a strip end too early, libtiff leaves pixels as its memory was.
    if pixels.shape != same.shape or (path.suffix != ".tif" and not np.array_equal(pixels, same)):
        raise AlteredError("the pixels of the file and of its bytes differ")
    return "fine"


def mask(path: Path, valid: Path) -> str:
    """Read the values, the colors and the labels of a mask."""
    colors, values = read_raw_mask(path, as_colors=True), read_raw_mask(path)
    if colors.shape[:2] != values.shape[:2] or colors.ndim != 3 or values.dtype not in (np.uint8, np.uint16):
        raise AlteredError(f"colors of shape {colors.shape}, values of shape {values.shape}, {values.dtype}")
    labels = MaskReader(("road", "sky"), colors={(0, 0, 0): 0, (128, 0, 0): 1}).read(path)
    if not set(np.unique(labels).tolist()) <= {0, 1, 255}:
        raise AlteredError(f"labels {np.unique(labels)}")
    return "fine"


def _dataset(spec: str) -> str:
    """Open the splits of a data set and read all their samples."""
    for dataset in open_splits(spec):
        for index in range(len(dataset)):
            sample = dataset[index]
            if sample.labels.shape != sample.image.shape[:2]:
                raise AlteredError(f"labels of shape {sample.labels.shape}, an image of {sample.image.shape}")
            known = {*range(len(dataset.classes)), dataset.ignore_index}
            if not set(np.unique(sample.labels).tolist()) <= known:
                raise AlteredError(f"labels {np.unique(sample.labels)} of {len(dataset.classes)} classes")
    return "fine"


def own(path: Path, valid: Path) -> str:
    """Read a folder of images and masks."""
    return _dataset(str(path))


def coco_voc(path: Path, valid: Path) -> str:
    """Read COCO's objects."""
    return _dataset(f"coco_voc:{path}?split=val2017")


def coco_panoptic(path: Path, valid: Path) -> str:
    """Read COCO's panoptic masks."""
    return _dataset(f"coco_panoptic:{path}?split=val2017")


def sbd(path: Path, valid: Path) -> str:
    """Read SBD's MATLAB files."""
    return _dataset(f"sbd:{path}?split=train")


def pascal_context(path: Path, valid: Path) -> str:
    """Read PASCAL-Context's MATLAB files and its list of labels."""
    return _dataset(f"pascal_context:{path}?split=train")


def converted(path: Path, valid: Path) -> str:
    """Convert a data set into the folder of an earlier conversion."""
    convert(open_splits(str(path / "own")), path / "converted")
    return "fine"


def recipe(path: Path, valid: Path) -> str:
    """Read a recipe and write it out in full."""
    read_recipe(path).to_yaml()
    return "fine"


def probabilities(path: Path, valid: Path) -> str:
    """Read class probabilities."""
    maps, classes, colors = read_probabilities(path)
    if maps.ndim != 3 or not len(maps) == len(classes) == len(colors):
        raise AlteredError(f"maps of shape {maps.shape}, {len(classes)} classes, {len(colors)} colors")
    return "fine"


def segmenter(path: Path, valid: Path) -> str:
    """Segment a small image by a file of weights, or by an exported network."""
    result = Segmenter.load(path, engine="torch" if path.suffix == ".safetensors" else "auto")(_IMAGE)
    if result.labels.shape != _IMAGE.shape[:2]:
        raise AlteredError(f"labels of shape {result.labels.shape}")
    result.overlay()
    return "fine"


_IMAGE = np.random.default_rng(0).integers(0, 255, (20, 24, 3), np.uint8)


def video(path: Path, valid: Path) -> str:
    """Read all frames of a video."""
    for count, frame in enumerate(VideoReader(path)):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.size == 0 or count > 1000:
            raise AlteredError(f"frame {count} of shape {frame.shape}")
    return "fine"


def checkpoint(path: Path, valid: Path) -> str:
    """Resume a run that has ended from its checkpoint."""
    train(read_recipe(path / "recipe.yaml"), path, resume=True, accelerator="cpu", devices=1)
    return "fine"


_recipe = lru_cache(maxsize=1)(read_recipe)


def resumable(path: Path, valid: Path) -> str:
    """Prepare a run to be resumed by its own recipe, which is the undamaged one."""
    prepare_run_dir(_recipe(valid / "recipe.yaml"), path, resume=True)
    return "fine"


def logs(path: Path, valid: Path) -> str:
    """Continue the logs of a run, and read them as its curves do."""
    with mock.patch("torch.utils.tensorboard.SummaryWriter"):  # which takes ten times as long as the rest
        StageLog(path, ["train"], 0, 2, camvid.CLASSES).close()
    read_log(path / "log.csv", STEP_NUMBERS)
    read_log(path / "evaluations.csv", METRICS[:1])
    return "fine"


def search_log(path: Path, valid: Path) -> str:
    """Read the log of a search for parameters of the CRF."""
    settings = {"w2": 3.0, "sigma_gamma": 3.0, "iterations": 1, "prune": 0.0, "ignore_index": 255}
    with SearchLog(path, settings) as log:
        for matrix in log.matrices.values():
            matrix.miou  # noqa: B018 (a property that computes)
    return "fine"


def evaluation(path: Path, valid: Path) -> str:
    """Restore an evaluation that was interrupted, and go on with it."""
    result = EvaluationResult.empty(3, settings="the settings")
    if not result.restore(path):
        return "fine"
    labels = np.zeros((6, 8), np.uint8)
    result.add(7, labels, labels, "7")
    result.metrics()
    result.save(path.with_name("again.npz"))
    return "fine"


def cached(path: Path, valid: Path) -> str:
    """Read an entry of the cache of engines: it is the one that was stored, or none."""
    cache = EngineCache()
    cache.folder = path.parent
    content = cache.load(path.stem)
    if content is not None and content != valid.read_bytes():
        raise AlteredError("the entry is another one than was stored")
    return "fine"


def checksum(path: Path, valid: Path) -> str:
    """Read the checksum of an earlier download."""
    return "fine" if len(remembered_sha256(path)) in (0, 64) else "altered"


def hub_listing(path: Path, valid: Path) -> str:
    """Find a file of the hub by an earlier answer."""
    find_hub_file(HubId.parse("hf://user/name"), path, online=False)
    return "fine"


def imported(path: Path, valid: Path) -> str:
    """Import weights of another project."""
    import_file(path)
    return "fine"


def header(path: Path, valid: Path) -> str:
    """Read the card and the checksum of weights."""
    read_header(path)
    digest_file(path)
    return "fine"


def card(path: Path, valid: Path) -> str:
    """Read the text of a card."""
    Card.read(path.read_text("utf-8", "replace"), str(path))
    return "fine"


def crf_input(path: Path, valid: Path) -> str:
    """Refine probabilities by the CRF."""
    try:
        maps = read_npy(path)
    except ArchiveError:
        return "error"
    size = maps.shape[1:] if maps.ndim == 3 else (6, 8)
    if maps.size < 10_000 and 0 not in size:
        dense_crf(np.zeros((*size, 3), np.uint8), maps, iterations=1)
    return "fine"


def matlab(path: Path, valid: Path) -> str:
    """Read a matrix of a MATLAB file."""
    read_mat(path / "cls" / "a.mat", ("GTcls", "Segmentation"))
    return "fine"


def classes(path: Path, valid: Path) -> str:
    """Read the description of a folder of images and masks."""
    read_classes_yaml(path / "classes.yaml")
    return "fine"
