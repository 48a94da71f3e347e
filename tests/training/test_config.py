"""Recipe keys: unknown, renamed and wrong ones, their descriptions, and where data sets are."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from atrous import AtrousError
from atrous.training.config import DataConfig, RecipeModel, StageConfig
from atrous.training.recipe import Recipe, make_recipe

BASE = {"name": "x", "model": "m", "data": {"train": "voc2012:data"}, "steps": 10}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimiser.lr=1"], "there is no key 'optimiser'. Did you mean 'optimizer'?"),
        (["optimizer.learningrate=1"], "optimizer: there is no key 'learningrate'"),
        (["batchnorm=train"], "Did you mean 'batch_norm'"),
        (["loss=crossentropy"], "unknown loss 'crossentropy'. Did you mean 'cross_entropy'"),
        (["loss.cross_entropy.clas_weights=[1]"], "has no argument 'clas_weights'. Did you mean 'class_weights'"),
        (["transforms=[flipp]"], "unknown transform 'flipp'. Did you mean 'flip'"),
        (["transforms=[{crop: {height: 3}}]"], "the transform 'crop' cannot be built"),
        (["transforms.0.crop=3"], "'transforms' is a list"),
        (["schedule.poly.powr=1"], "the schedule 'poly' has no argument 'powr'. Did you mean 'power'"),
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
def test_wrong_keys_and_values(overrides: list[str], message: str) -> None:
    with pytest.raises(AtrousError) as raised:
        make_recipe({**BASE, "transforms": ["flip"]}, overrides)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "new"),
    [
        (["optimizer.head=10"], "lr_mult.head"),
        (["optimizer.bias_lr_mult=2"], "lr_mult.bias"),
        (["clip=1"], "grad_clip_norm"),
        (["schedule=fixed"], "constant"),
        (["schedule={step: {every: 2000}}"], "step_size"),
        (["schedule={step: {at: [2000]}}"], "milestones"),
        (["schedule.poly.end=0.1"], "end_factor"),
        (["loss=hard_pixels"], "ohem"),
        (["loss.ohem.top=0.5"], "fraction"),
        (["loss.ohem.steps=5"], "warmup_steps"),
        (["transforms=[colour]"], "color"),
        (["warm_up.steps=5"], "warmup"),
        (["warmup={steps: 5, start: 0.5}"], "start_factor"),
        (["evaluate.images=3"], "max_images"),
        (["data.bootstrap=[cat]"], "duplicate_classes"),
        (["data.times=3"], "duplicate_times"),
    ],
)
def test_renamed_keys_get_their_new_name(overrides: list[str], new: str) -> None:
    with pytest.raises(AtrousError) as raised:
        make_recipe(BASE, overrides)
    assert f"Did you mean '{new}'?" in str(raised.value)


def test_parts_of_a_network_have_dotted_names_in_files_and_overrides() -> None:
    tree = {**BASE, "optimizer": {"lr_mult": {"crf.spatial": 10000, "bias": 2}}}
    assert make_recipe(tree).stages[0].optimizer.lr_mult == {"crf.spatial": 10000, "bias": 2}
    overridden = make_recipe(tree, ["optimizer.lr_mult.crf.spatial=5", "optimizer.lr_mult.head=3"])
    assert overridden.stages[0].optimizer.lr_mult == {"crf.spatial": 5, "bias": 2, "head": 3}
    with pytest.raises(AtrousError, match="lr_mult"):
        make_recipe(tree, ["optimizer.lr_mult.head=-1"])
    with pytest.raises(AtrousError, match=r"optimizer.lr_mult: .*dictionary"):
        make_recipe(tree, ["optimizer.lr_mult=10"])


@pytest.mark.parametrize(("old", "new"), [("about", "description"), ("licence", "license")])
def test_renamed_keys_of_the_recipe_itself(old: str, new: str) -> None:
    with pytest.raises(AtrousError, match=f"Did you mean '{new}'"):
        make_recipe({**BASE, old: "words"})


def test_every_key_is_described() -> None:
    def models(model: type[RecipeModel]) -> set[type[RecipeModel]]:
        nested = [value for field in model.model_fields.values() for value in (field.annotation, field.default)]
        types = {value if isinstance(value, type) else type(value) for value in nested}
        inner = {each for each in types if issubclass(each, RecipeModel)}
        return {model}.union(*(models(each) for each in inner))

    described = models(StageConfig) | {Recipe}
    assert len(described) == 6
    for model in described:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name} has no description"


def test_data_in_another_folder_and_other_data(official: Callable[[str], str]) -> None:
    config = DataConfig(train=("coco_voc:c?split=train2017", "voc2012:v?split=trainaug"), val="voc2012:v?split=val")
    replaced = config.with_data("voc2012:/mnt/voc?aug=extra")
    assert replaced.train == ("coco_voc:c?split=train2017", "voc2012:/mnt/voc?split=trainaug&aug=extra")
    assert replaced.val == "voc2012:/mnt/voc?split=val&aug=extra"
    own = config.with_data(official("folder"))
    assert (own.train, own.val) == ((f"{official('folder')}?split=train",), f"{official('folder')}?split=val")
