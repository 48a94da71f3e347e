"""Every shipped recipe: it reads, is what it says, and runs two steps of each stage on data in official layouts."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from atrous import AtrousError, create_model, list_models, load
from atrous.data.catalog import DatasetSpec
from atrous.training.logs import read_rows
from atrous.training.recipe import FOLDER, DataConfig, Recipe, list_recipes, make_recipe, read_recipe

EVERY_RECIPE = pytest.mark.parametrize("name", list_recipes())
BASE = {"name": "x", "model": "m", "data": {"train": "voc2012:data"}, "steps": 10}


def test_each_published_result_has_one() -> None:
    assert len(list_recipes()) >= 20
    for path in FOLDER.glob("*.yaml"):
        assert path.read_text().startswith("# "), f"{path.name} says not where its numbers are from"


@EVERY_RECIPE
def test_what_is_saved_is_the_recipe_again(name: str, tmp_path: Path) -> None:
    recipe = read_recipe(name)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert read_recipe(tmp_path / "recipe.yaml") == recipe
    assert make_recipe(yaml.safe_load(recipe.to_yaml())) == recipe


@EVERY_RECIPE
def test_two_steps_of_each_stage(name: str, official: Callable[[str], str], tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="needs the extra 'train'")
    from atrous.training import train

    for stage in read_recipe(name).stages:
        if stage.model.id not in list_models():
            pytest.skip(f"model not registered here: {stage.model.id}")
    recipe = _tiny(name, official, _backbone(name, tmp_path / "imagenet.pth"))
    result = train(recipe, tmp_path / "run")
    rows = read_rows(result.folder / "log.csv")
    assert [(row["stage"], row["step"]) for row in rows] == [(s.name, str(n)) for s in recipe.stages for n in (1, 2)]
    assert all(math.isfinite(float(row["loss"])) for row in rows)
    model = load(result.last)
    assert model.card is not None
    assert model.card.model == recipe.stages[-1].model.id
    assert model.card.measured


def _backbone(name: str, path: Path) -> Path:
    """A backbone to start from, as weak as a trained one where it is not normalized: frozen random ones overflow."""
    first = read_recipe(name).stages[0]
    if not first.backbone_weights:
        return path
    torch.manual_seed(0)
    backbone = create_model(first.model.id, **{**first.model.options, "width": 0.125}).backbone
    state = {key: value * 0.1 if key.endswith("bn3.weight") else value for key, value in backbone.state_dict().items()}
    torch.save(state, path)
    return path


def _tiny(name: str, official: Callable[[str], str], backbone: Path) -> Recipe:
    """The recipe with two steps, small crops, small batches and an eighth of the channels, all else as it is."""
    published = read_recipe(name)
    overrides = [
        "steps=2",
        "batch=2",
        "accumulate=1",
        "workers=0",
        "model.options.width=0.125",
        f"backbone_weights={backbone if published.stages[0].backbone_weights else ''}",
        "transforms=[{crop: {height: 49, width: 65}}, flip]",
        "evaluate.images=1",
        "evaluate.every=0",
        "evaluate.samples=1",
        "preprocessing.resize=keep",
        "preprocessing.size=null",
    ]
    recipe = read_recipe(name, overrides)
    used = {DatasetSpec.parse(text).name for s in published.stages for text in (*s.data.train, s.data.val) if text}
    return recipe.at(official(data) for data in sorted(used))


def test_deeplab_v3_is_trained_as_published() -> None:
    first, second = read_recipe("deeplab_v3_resnet101_voc").stages
    assert (first.steps, first.batch, first.optimizer.lr, first.batch_norm) == (30000, 16, 0.007, "sync")
    assert (second.steps, second.optimizer.lr, second.batch_norm) == (30000, 0.001, "frozen")
    assert first.model.options["output_stride"] == 16
    assert second.model.options["output_stride"] == 8
    assert DatasetSpec.parse(first.data.train[0]).options == {"split": "trainaug"}
    assert DatasetSpec.parse(second.data.train[0]).options == {"split": "trainval"}
    assert len(second.data.bootstrap) == 5


def test_overrides() -> None:
    recipe = read_recipe("fcn_vgg16_voc", ["optimizer.lr=1e-3", "stages.fcn_16s.steps=7", "seed=3", "loss=lovasz"])
    assert [stage.optimizer.lr for stage in recipe.stages] == [1e-3] * 3
    assert [stage.steps for stage in recipe.stages] == [100000, 7, 100000]
    assert recipe.seed == 3
    assert recipe.stages[0].loss == {"lovasz": {}}
    assert read_recipe("fcn_vgg16_voc", ["stages.2.model=unet.valid"]).stages[2].model.id == "unet.valid"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimiser.lr=1"], "there is no key 'optimiser'. Did you mean 'optimizer'"),
        (["optimizer.learningrate=1"], "optimizer: there is no key 'learningrate'"),
        (["batchnorm=train"], "Did you mean 'batch_norm'"),
        (["loss=crossentropy"], "no loss 'crossentropy'. Did you mean 'cross_entropy'"),
        (["loss.cross_entropy.clas_weights=[1]"], "takes no 'clas_weights'. Did you mean 'class_weights'"),
        (["transforms=[flipp]"], "no transform 'flipp'. Did you mean 'flip'"),
        (["transforms=[{crop: {height: 3}}]"], "the transform 'crop' cannot be made"),
        (["transforms.0.crop=3"], "'transforms' holds no keys"),
        (["schedule.poly.powr=1"], "the schedule 'poly' takes no 'powr'. Did you mean 'power'"),
        (["optimizer.lr=-1"], "optimizer.lr: Input should be greater than 0"),
        (["steps=0"], "give either steps or epochs"),
        (["epochs=3"], "give either steps or epochs"),
        (["lr"], "an override is key=value"),
        (["stages.trian.steps=1"], "the stages are train. Did you mean 'train'"),
        (
            ["loss=[dice, lovasz]"],
            "the recipe: stages.train.loss: found ['dice', 'lovasz'], expected a name, or names with their arguments, "
            "such as loss: {cross_entropy: {}, lovasz: {}}.",
        ),
        (["loss.dice=3"], "stages.train.loss: found {'dice': 3}, expected a name, or names with their arguments"),
        (["schedule=[poly]"], "such as schedule: {poly: {power: 0.9}}."),
        (
            ["transforms=flip"],
            "stages.train.transforms: found 'flip', expected a list of names, or of names with their",
        ),
        (["transforms=[[flip]]"], "found ['flip'], expected a name, or a name with its arguments, such as crop: {"),
    ],
)
def test_what_is_wrong_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises(AtrousError) as raised:
        make_recipe({**BASE, "transforms": ["flip"]}, overrides)
    assert message in str(raised.value)


def test_the_stage_that_is_wrong_is_named() -> None:
    stages = [{"name": "coarse"}, {"name": "fine", "loss": ["dice"]}]
    with pytest.raises(AtrousError, match=r"stages\.fine\.loss: found \['dice'\]"):
        make_recipe({**BASE, "stages": stages})
    with pytest.raises(AtrousError, match=r"stages\.1\.loss: found"):  # a name that two have tells nothing
        make_recipe({**BASE, "stages": [{}, {"loss": ["dice"]}]})


def test_an_unknown_recipe_gets_the_nearest_name() -> None:
    with pytest.raises(AtrousError, match="Did you mean 'segnet_camvid'"):
        read_recipe("segnet_camvd")


@pytest.mark.parametrize(("text", "message"), [("a: [", "cannot be read as YAML"), ("- a", "a mapping")])
def test_files_that_are_no_recipes(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(AtrousError, match=message):
        read_recipe(path)


def test_stages_need_names_of_their_own() -> None:
    with pytest.raises(AtrousError, match="names of their own"):
        make_recipe({**BASE, "stages": [{"steps": 1}, {"steps": 2}]})


def test_data_in_another_place_and_other_data(official: Callable[[str], str]) -> None:
    entry = DataConfig(train=("coco_voc:c?split=train2017", "voc2012:v?split=trainaug"), val="voc2012:v?split=val")
    moved = entry.at("voc2012:/mnt/voc?aug=extra")
    assert moved.train == ("coco_voc:c?split=train2017", "voc2012:/mnt/voc?split=trainaug&aug=extra")
    assert moved.val == "voc2012:/mnt/voc?split=val&aug=extra"
    own = entry.at(official("folder"))
    assert (own.train, own.val) == ((f"{official('folder')}?split=train",), f"{official('folder')}?split=val")
