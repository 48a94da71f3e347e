"""Reading recipes: overrides, stages, and errors that name the place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from atrous import AtrousError
from atrous.card import Card, Preprocessing
from atrous.models import build_from_card
from atrous.training.config import DataConfig
from atrous.training.initialize import normalization_warning
from atrous.training.recipe import make_recipe, read_recipe
from atrous.weights import save
from tests.training.conftest import ENVIRONMENT, MODEL, write_folder

BASE = {"name": "x", "model": "m", "data": {"train": "voc2012:data"}, "steps": 10}


def test_overrides() -> None:
    recipe = read_recipe("fcn_vgg16_voc", ["optimizer.lr=1e-3", "stages.fcn_16s.steps=7", "seed=3", "loss=lovasz"])
    assert [stage.optimizer.lr for stage in recipe.stages] == [1e-3] * 3
    assert [stage.steps for stage in recipe.stages] == [100000, 7, 100000]
    assert recipe.seed == 3
    assert recipe.stages[0].loss == {"lovasz": {}}
    assert read_recipe("fcn_vgg16_voc", ["stages.2.model=unet.valid"]).stages[2].model.id == "unet.valid"


def test_data_in_another_folder_and_overrides_of_data() -> None:
    voc = ["stages.fcn_16s.data.train=voc2012:data/voc2012?split=trainaug", "data.allow_overlap=true"]
    recipe = read_recipe("fcn_vgg16_voc", voc, ["sbd:/mnt/sbd", "voc2012:/mnt/voc"])
    assert [stage.data.train for stage in recipe.stages] == [
        ("sbd:/mnt/sbd?split=train",),
        ("voc2012:/mnt/voc?split=trainaug",),
        ("sbd:/mnt/sbd?split=train",),
    ]
    assert {stage.data.val for stage in recipe.stages} == {"voc2012:/mnt/voc?split=seg11valid"}
    assert all(stage.data.allow_overlap for stage in recipe.stages)


def test_other_data_replace_those_of_the_recipe_but_not_what_overrides_set(tmp_path: Path) -> None:
    """DeepLab v3's recipe duplicates the images of classes that other data do not have."""
    other = [f"folder:{write_folder(tmp_path / 'own', ('a', 'b'))}"]
    for stage in read_recipe("deeplab_v3_resnet101_voc", ["backbone_weights="], other).stages:
        assert stage.data == DataConfig.from_spec(other[0])
    overrides = ["data.allow_overlap=true", "data.duplicate_classes=[b]", "patience=3"]
    recipe = read_recipe("camvid_baseline", overrides, other)
    data = recipe.stages[0].data
    assert data.train == (f"{other[0]}?split=train",)
    assert data.val == f"{other[0]}?split=val"
    assert (data.allow_overlap, data.duplicate_classes) == (True, ("b",))
    assert make_recipe(yaml.safe_load(recipe.to_yaml())) == recipe
    assert read_recipe("camvid_baseline", ["data.val="], other).stages[0].data.val == ""
    with pytest.raises(AtrousError, match=r"patience counts validations: give data\.val, or set it to 0"):
        read_recipe("camvid_baseline", ["patience=3"], [f"{other[0]}?split=train"])


def test_the_stage_of_a_wrong_key_is_named() -> None:
    stages = [{"name": "coarse"}, {"name": "fine", "loss": ["dice"]}]
    with pytest.raises(AtrousError, match=r"stages\.fine\.loss: found \['dice'\]"):
        make_recipe({**BASE, "stages": stages})
    with pytest.raises(AtrousError, match=r"stages\.1\.loss: found"):  # the name is not unique
        make_recipe({**BASE, "stages": [{}, {"loss": ["dice"]}]})


def test_an_unknown_recipe_gets_the_nearest_name() -> None:
    with pytest.raises(AtrousError, match="Did you mean 'segnet_camvid'"):
        read_recipe("segnet_camvd")


@pytest.mark.parametrize(("text", "message"), [("a: [", "not valid YAML"), ("- a", "must be a mapping")])
def test_files_that_are_not_recipes(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(AtrousError, match=message):
        read_recipe(path)


def test_stage_names_are_unique() -> None:
    with pytest.raises(AtrousError, match="stage names must be unique"):
        make_recipe({**BASE, "stages": [{"steps": 1}, {"steps": 2}]})


LITE0 = {"model": "deeplab_v3.efficientnet_lite0", "backbone_weights": "imagenet"}


def test_pretrained_weights_bring_their_mean_and_std() -> None:
    """EfficientNet-Lite0's ImageNet weights take (pixel - 127) / 128, torchvision's other numbers."""
    recipe = make_recipe({**BASE, **LITE0, "preprocessing": {"grid": 16}})
    preprocessing = recipe.stages[0].preprocessing
    assert (preprocessing.mean, preprocessing.std, preprocessing.grid) == ((127,) * 3, (128,) * 3, 16)
    assert make_recipe(yaml.safe_load(recipe.to_yaml())) == recipe
    torchvision = make_recipe({**BASE, **LITE0}, ["model=deeplab_v3.resnet50"]).stages[0].preprocessing
    assert torchvision.mean == (123.675, 116.28, 103.53)


def test_later_stages_have_the_normalization_of_the_first() -> None:
    stages = [{"name": "one", "backbone_weights": "imagenet"}, {"name": "two"}]
    recipe = make_recipe({**BASE, "model": LITE0["model"], "stages": stages})
    assert [stage.preprocessing.mean for stage in recipe.stages] == [(127,) * 3] * 2


def test_mean_and_std_of_the_recipe_come_first() -> None:
    given = {"mean": [1, 2, 3], "std": [4, 5, 6]}
    stage = make_recipe({**BASE, **LITE0, "preprocessing": given}).stages[0]
    assert stage.preprocessing.mean == (1, 2, 3)
    assert "trained with mean (127" in normalization_warning(stage)
    assert not normalization_warning(make_recipe({**BASE, **LITE0}).stages[0])
    random = make_recipe({**BASE, "model": LITE0["model"]}).stages[0]
    assert random.preprocessing.mean == (123.675, 116.28, 103.53)
    assert not normalization_warning(random)


def save_bgr_weights(path: Path) -> Path:
    """Weights of the network of `small`, whose card has a normalization of its own."""
    normalization = Preprocessing(mean=(1, 2, 3), std=(4, 5, 6), channel_order="BGR")
    card = Card(
        model=MODEL, arguments={"width": 0.125}, classes=("a", "b"), colors=((0, 0, 0), (9, 9, 9)),
        preprocessing=normalization,
    )  # fmt: skip
    return save(build_from_card(card), path, card=card)


def test_trained_weights_bring_their_mean_std_and_channel_order(tmp_path: Path) -> None:
    trained = save_bgr_weights(tmp_path / "trained.safetensors")
    stages = [{"name": "one"}, {"name": "two"}]
    recipe = make_recipe(
        {**BASE, **LITE0, "preprocessing": {"grid": 16}, "stages": stages}, [f"stages.one.weights={trained}"]
    )
    for stage in recipe.stages:
        assert stage.preprocessing == Preprocessing(mean=(1, 2, 3), std=(4, 5, 6), channel_order="BGR", grid=16)
    assert not normalization_warning(recipe.stages[0])
    text = recipe.to_yaml()
    trained.unlink()
    assert make_recipe(yaml.safe_load(text)) == recipe  # a recipe written out in full needs no card
    with pytest.raises(AtrousError, match=r"trained\.safetensors"):
        make_recipe({**BASE, **LITE0, "weights": str(trained)})


def test_a_normalization_that_differs_from_the_trained_weights(tmp_path: Path) -> None:
    weights = str(save_bgr_weights(tmp_path / "trained.safetensors"))
    mean = make_recipe({**BASE, "model": MODEL, "weights": weights, "preprocessing": {"mean": [7, 8, 9]}}).stages[0]
    assert mean.preprocessing == Preprocessing(mean=(7, 8, 9), std=(4, 5, 6), channel_order="BGR")
    assert normalization_warning(mean).endswith("trained with mean (1.0, 2.0, 3.0): remove mean from the recipe.")
    order = {"channel_order": "RGB"}
    rgb = make_recipe({**BASE, "model": MODEL, "weights": weights, "preprocessing": order}).stages[0]
    assert rgb.preprocessing == Preprocessing(mean=(3, 2, 1), std=(6, 5, 4), channel_order="RGB")
    assert "has channel_order RGB, but" in normalization_warning(rgb)


def test_recipes_are_read_without_the_extra(tmp_path: Path) -> None:
    """Only training needs Lightning Fabric, tensorboard and matplotlib; `train` is the function, not its module."""
    script = f"""
import sys
for name in ("lightning_fabric", "lightning", "tensorboard", "matplotlib"):
    sys.modules[name] = None
import atrous.training.train
from atrous.training import list_recipes, read_recipe, train
recipe = read_recipe(list_recipes()[0])
try:
    train(recipe, {str(tmp_path / "run")!r})
except ValueError as error:
    print(error)
"""
    printed = subprocess.run(
        [sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "Training requires lightning_fabric: pip install 'atrous[train]'."


@pytest.mark.parametrize("name", [[], {}, [1], 7, None])
def test_a_network_whose_id_is_no_text(name: object) -> None:
    with pytest.raises(AtrousError, match=r"model\.id"):
        make_recipe({**BASE, "model": {"id": name}})
