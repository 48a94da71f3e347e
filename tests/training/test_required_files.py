"""Files that a recipe needs: found, to be downloaded, or missing, all told at once and nothing downloaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from atrous.errors import AtrousError
from atrous.training.required_files import locate_initial_weights, resolve_files
from atrous.weights import save
from tests.training.conftest import small

VGG = "https://download.pytorch.org/models/vgg16_bn-6c64b313.pth"


def test_initial_weights_are_located_but_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locate(*overrides: str) -> str:
        return locate_initial_weights(small("camvid:nowhere", *overrides))

    assert locate() == "random"
    vgg = ("model.id=segnet.vgg16", "backbone_weights=imagenet")
    once = "once; backbone_weights=none switches this off"
    assert locate(*vgg) == f"backbone_weights imagenet, to be downloaded from {VGG} {once}"
    file = tmp_path / "own.pth"
    torch.save({}, file)
    assert locate(f"backbone_weights={file}") == f"backbone_weights {file}"
    monkeypatch.setenv("ATROUS_OFFLINE", "1")
    with pytest.raises(AtrousError, match=r"vgg16_bn-6c64b313.pth is not on this machine, and ATROUS_OFFLINE is set"):
        locate(*vgg)
    with pytest.raises(
        AtrousError, match=r"No 'imagenet' weights .* resnet50 .* Give a file with backbone_weights=FILE"
    ):
        locate("model.id=deeplab_v3_cascade.resnet50", "backbone_weights=imagenet")


def test_trained_weights_are_located(street: str, tmp_path: Path) -> None:
    from atrous.data import open_dataset
    from atrous.training.stage import build_model

    recipe = small(street)
    model = build_model(recipe, recipe.stages[0], open_dataset(f"{street}?split=train"))
    file = save(model, tmp_path / "trained.safetensors")
    assert locate_initial_weights(small(street, f"weights={file}")) == f"weights {file}"


def test_everything_that_is_missing_is_reported_at_once(street: str) -> None:
    stages = [{"name": "one"}, {"name": "two", "data": {"train": "voc2012:gone"}}, {"name": "three"}]
    recipe = small("camvid:nowhere", "backbone_weights=gone.pth", stages=stages)
    with pytest.raises(AtrousError) as raised:
        resolve_files(recipe)
    first, *problems = str(raised.value).splitlines()
    assert first == "3 problems with the files of small; nothing was trained:"
    assert [problem.strip().split(":")[0] for problem in problems] == ["nowhere", "gone", "backbone_weights"]
    with pytest.raises(AtrousError, match=r"^backbone_weights: no such file: gone.pth") as raised:
        resolve_files(small(street, "backbone_weights=gone.pth"))
    assert "\n" not in str(raised.value)


def test_the_data_of_every_stage_is_opened(street: str) -> None:
    stages = [{"name": "one"}, {"name": "two", "data": {"val": ""}}]
    ((train, val), (again, none)), initial_weights = resolve_files(small(street, stages=stages), "known")
    assert (train.split, again.split, initial_weights) == ("train", "train", "known")
    assert val is not None
    assert val.split == "val"
    assert none is None
