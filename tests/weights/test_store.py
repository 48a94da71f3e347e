from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import atrous
from atrous import AtrousError, create_model
from atrous.card import Card
from atrous.weights import find_weights, read_card, save


def test_saving_and_loading_keep_tensors_and_card(model, card, image, tmp_path: Path) -> None:
    path = save(model, tmp_path / "a.safetensors")
    loaded = atrous.load(path)
    assert loaded.card == card == read_card(path)
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_half_precision_halves_the_file_and_loads_as_floats(model, image, tmp_path: Path) -> None:
    whole, half = save(model, tmp_path / "whole.safetensors"), save(model, tmp_path / "half.safetensors", half=True)
    assert half.stat().st_size < 0.7 * whole.stat().st_size
    loaded = atrous.load(half)
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    with torch.no_grad():
        difference = (loaded(image) - model(image)).abs().max()
    assert 0 < difference < 0.05 * model(image).abs().max()


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_statistics_of_batch_norm_are_saved_in_full(model, tmp_path: Path) -> None:
    """In 16 bits, variances overflow from 65505, vanish below 1e-8, and round 1 - eps of folded layers to 1."""
    statistics = model.backbone.features[0][1].running_var
    statistics.copy_(torch.tensor([1e6, 1e-9, 1 - 1e-5]).repeat(len(statistics))[: len(statistics)])
    loaded = atrous.load(save(model, tmp_path / "half.safetensors", half=True))
    assert torch.equal(loaded.backbone.features[0][1].running_var, statistics)


@pytest.mark.parametrize("name", ["deeplab_v3.mobilenet_v2", "pspnet.mobilenet_v2"])
@pytest.mark.parametrize("align_corners", [True, False])
def test_corners_are_aligned_as_asked_for(name: str, align_corners: bool, card: Card, tmp_path: Path) -> None:
    other = create_model(name, num_classes=21, width=0.125, align_corners=not align_corners)
    other.card = card.model_copy(update={"model": name, "align_corners": not align_corners})
    path = save(other, tmp_path / "a.safetensors")
    loaded = atrous.load(path, arguments={"align_corners": align_corners})
    assert loaded.align_corners == loaded.card.align_corners == align_corners
    assert atrous.load(save(loaded, tmp_path / "b.safetensors")).align_corners == align_corners
    with pytest.raises(AtrousError, match="takes align_corners as bool, not 'no'"):
        atrous.load(path, arguments={"align_corners": "no"})


def test_saved_files_are_readable_by_others(model, tmp_path: Path) -> None:
    (plain := tmp_path / "plain").touch()
    assert save(model, tmp_path / "a.safetensors").stat().st_mode == plain.stat().st_mode


def test_a_model_without_a_card_is_not_saved(model, tmp_path: Path) -> None:
    model.card = None
    with pytest.raises(AtrousError, match="no card"):
        save(model, tmp_path / "a.safetensors")
    assert not any(tmp_path.iterdir())


def test_the_name_must_be_a_safetensors_name(model, tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match=r"must end in \.safetensors"):
        save(model, tmp_path / "a.pth")


def test_an_unwritable_folder_leaves_no_file(model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AtrousError, match="Cannot write"):
        save(model, tmp_path / "file" / "a.safetensors")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_a_truncated_file_is_refused(saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(AtrousError, match="truncated or altered"):
        atrous.load(saved)


def test_a_file_with_one_changed_weight_is_refused(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-100] ^= 1
    saved.write_bytes(data)
    with pytest.raises(AtrousError, match="truncated or altered"):
        atrous.load(saved)


def _rewrite(path: Path, tensors: dict[str, torch.Tensor], card: dict) -> None:
    save_file(tensors, path, {"atrous": json.dumps(card)})


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("model", "deeplab_v3.mobilenet_v3", "Did you mean 'deeplab_v3.mobilenet_v2'"),
        ("arguments", {"output_strid": 8}, "Did you mean 'output_stride'"),
        ("classes", ["only"], "1 classes but 21 colors"),
        ("preprocessing", {"resize": "pad"}, "needs a size"),
        ("surprise", 1, "surprise"),
        ("version", 2, "version"),
    ],
)
def test_an_invalid_card_names_the_entry(saved: Path, card: Card, entry: str, value, message: str) -> None:
    _rewrite(saved, load_file(saved), card.model_dump(mode="json") | {entry: value})
    with pytest.raises(AtrousError, match=message):
        atrous.load(saved)


def test_safetensors_without_a_card_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(AtrousError, match="no card"):
        atrous.load(tmp_path / "other.safetensors")


class TestFinding:
    def test_a_path_comes_before_an_id(self, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(saved.parent)
        assert find_weights("a.safetensors") == Path("a.safetensors")

    def test_folders_are_searched_in_order_then_the_cache(self, model, tmp_path: Path, monkeypatch) -> None:
        first, second, cache = (tmp_path / name for name in ("first", "second", "cache"))
        monkeypatch.setenv("ATROUS_WEIGHTS", f"{first}{os.pathsep}{second}")
        monkeypatch.setenv("ATROUS_CACHE", str(cache))
        name = "deeplab_v3.mobilenet_v2.mine"
        for folder in (cache, second, first):
            path = save(model, folder / f"{name}.safetensors")
            assert find_weights(name) == path
        assert name in atrous.list_weights("*.mine")
        assert atrous.load(name).card == model.card

    def test_the_catalogue_is_listed(self) -> None:
        assert "deeplab_v3.mobilenet_v2_x0.5.voc" in atrous.list_weights()
        assert all("coco" in name for name in atrous.list_weights("coco"))
        assert atrous.list_weights("nothing") == []

    def test_an_unknown_id_gets_the_nearest(self) -> None:
        with pytest.raises(AtrousError, match=re.escape("Did you mean 'deeplab_v3.mobilenet_v2_x0.5.voc'")):
            atrous.load("deeplab_v3.mobilnet_v2_x0.5.voc")

    def test_a_missing_file_gets_the_nearest(self, saved: Path) -> None:
        with pytest.raises(AtrousError, match=r"no such file\. Did you mean 'a.safetensors'"):
            atrous.load(saved.with_name("aa.safetensors"))

    def test_a_folder_is_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(AtrousError, match="is a folder"):
            atrous.load(tmp_path)

    def test_another_format_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "a.onnx").write_text("x")
        with pytest.raises(AtrousError, match=r"cannot import weights from this file\. Found a text file; "):
            atrous.load(tmp_path / "a.onnx")

    def test_offline_says_what_to_fetch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ATROUS_OFFLINE", "1")
        with pytest.raises(AtrousError, match=r"Get https://\S+/deeplabv3_257_mv_gpu\.tflite"):
            atrous.load("deeplab_v3.mobilenet_v2_x0.5.voc")

    def test_a_released_name_must_have_the_released_contents(self, tmp_path: Path) -> None:
        path = tmp_path / "deeplabv3_257_mv_gpu.tflite"
        path.write_bytes(b"\0\0\0\0TFL3")
        with pytest.raises(AtrousError, match="differs from the released file"):
            atrous.load(path)
