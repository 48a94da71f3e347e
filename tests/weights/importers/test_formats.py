"""Formats are recognized by content, whatever the name of the file."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import atrous
from atrous import AtrousError
from atrous.inference.engines.converted import WeightsFile
from atrous.weights import read_card
from atrous.weights.importers.formats import find_format
from tests.weights.importers.test_torchvision import torchvision_state


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.tflite", "a", "a.caffemodel"])
def test_the_name_of_saved_weights_decides_nothing(model, saved: Path, name: str) -> None:
    path = saved.rename(saved.with_name(name))
    assert atrous.load(path).card == read_card(path) == model.card
    assert atrous.Segmenter.load(path).card.classes == model.card.classes


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.bin"])
@pytest.mark.parametrize("legacy", [False, True])
def test_the_name_of_a_state_dict_decides_nothing(name: str, legacy: bool, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    assert find_format(tmp_path / name).name == "PyTorch state dict"


def test_the_name_of_a_graph_decides_nothing(shared_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "graph.pth"
    path.write_bytes((shared_data / "weights" / "deeplabv3_257_mv_gpu.tflite").read_bytes())
    assert atrous.load(path).num_classes == 21


@pytest.mark.parametrize(
    ("contents", "found"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a Git LFS pointer: get the file itself"),
        (b"<!DOCTYPE html><html></html>", "a web page: the download failed"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "an HDF5 file"),
        (gzip.compress(b"text", mtime=0), "a gzip archive"),
        (b"name: 'VGG'\nlayer {\n}\n", "a text file"),
        (b"\x08\x07\x12\x07pytorch", "an ONNX graph, which is used as it is if its name ends in .onnx"),
        (b"\xff\xfe\x00\x01 and so on", "unknown content beginning with the bytes ff fe 00 01 20 61 6e 64"),
    ],
)
def test_other_content_is_named(contents: bytes, found: str, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(contents)
    with pytest.raises(AtrousError, match=f"Found {found}.*expected one of: safetensors file .*PyTorch state dict"):
        atrous.load(tmp_path / "a.bin")


def test_an_unknown_state_dict_lists_its_keys_and_the_libraries(tmp_path: Path) -> None:
    save_file({f"layer{index}": torch.zeros(index) for index in range(6)}, tmp_path / "a.safetensors")
    with pytest.raises(AtrousError, match=r"'layer0' \(0,\), 'layer1' \(1,\).* and 2 more.*networks of torchvision"):
        atrous.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"epoch": 3, "state_dict": state},
        lambda state: {"model": {"state_dict": state}, "optimizer": {"lr": 0.1}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"model_state": {f"module._orig_mod.{key}": value for key, value in state.items()}},
    ],
)
def test_checkpoints_of_trainings_are_unwrapped(wrap, tmp_path: Path) -> None:
    state = torchvision_state(50)
    torch.save(wrap(state), tmp_path / "a.pth")
    assert torch.equal(atrous.load(tmp_path / "a.pth").backbone.conv1.weight, state["backbone.conv1.weight"])


def test_a_state_dict_may_be_a_safetensors_file(tmp_path: Path) -> None:
    save_file(torchvision_state(50), tmp_path / "a.safetensors")
    assert atrous.load(tmp_path / "a.safetensors").card.model == "deeplab_v3.resnet50"


@pytest.mark.parametrize(
    ("file", "partner"),
    [
        ("decoder_epoch_20.pth", "encoder_epoch_20.pth"),
        ("encoder_epoch_20.pth", "decoder_epoch_20.pth"),
        ("model.ckpt.meta", "model.ckpt.index"),
        ("model.ckpt.data-00000-of-00001", "model.ckpt.index"),
    ],
)
def test_converted_networks_are_cached_by_all_files_of_the_weights(file: str, partner: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(b"\x80\x02 some weights")
    (tmp_path / partner).write_bytes(b"\x80\x02 more weights")
    before = WeightsFile.read(tmp_path / file).digest
    (tmp_path / partner).write_bytes(b"\x80\x02 other weights")
    assert WeightsFile.read(tmp_path / file).digest != before
