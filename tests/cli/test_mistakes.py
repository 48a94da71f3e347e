"""Ordinary mistakes end with one line and code 2, and the unexpected with one line, a hint and code 1."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import atrous
from atrous import AtrousError, Segmenter
from atrous.data.classes_yaml import read_classes_yaml
from tests.cli.conftest import Run


def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--device", "cuda"), "device 'cuda': this machine, or its build of torch"),
        (("--device", "cuda:3"), "Use auto or cpu"),
        (("--device", "mps"), "has no such device"),
        (("--device", "gpu"), "There is no device 'gpu'. Did you mean 'cuda'?"),
        (("--device", "cuda:one"), "There is no device 'cuda:one'"),
        (("--device", ""), "There is no device ''"),
        (("--output-stride", "0"), "output_stride 0: this network runs at"),
        (("--tile", "0"), "tile >= 1"),
        (("--tile", "1000000"), "Choose a smaller one, such as 1025"),
        (("--tile", "1000000000"), "Choose a smaller one, such as 1025"),
        (("--crf", "bogus"), "No CRF preset 'bogus'"),
        (("--crf", "v2.1"), "Did you mean 'v2'"),
        (("--crf=bogus",), "No CRF preset 'bogus'"),
    ],
)
def test_options_of_predict(
    run: Run, photographs: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options, message: str
) -> None:
    no_gpu(monkeypatch)
    result = run("predict", photographs / "a.jpg", "-w", weights, "-o", tmp_path / "out", *options)
    assert result.code == 2, result.err
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_a_misspelled_preset_is_reported_before_the_data_are_read(run: Run, weights: Path, tmp_path: Path) -> None:
    result = run("evaluate", "-w", weights, "--data", tmp_path / "none", "--crf", "bogus")
    assert result.code == 2
    assert "No CRF preset 'bogus'" in result.err


def test_a_training_on_a_missing_device(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightning_fabric", reason="needs the extra 'train'")
    from atrous.training.fabric import make_fabric

    no_gpu(monkeypatch)
    with pytest.raises(AtrousError, match="has no CUDA device"):
        make_fabric("32-true", "gpu", 1, "ddp")
    with pytest.raises(AtrousError, match=r"There is no device 'cud'\. Did you mean 'cuda'"):
        make_fabric("32-true", "cud", 1, "ddp")


def _header(text: bytes, claimed: int | None = None) -> bytes:
    return b"\x93NUMPY\x01\x00" + (len(text) if claimed is None else claimed).to_bytes(2, "little") + text + bytes(64)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        _header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 400000, 500000)}\n"),
        _header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 4, 5)}\n"),
        _header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4,\n"),
        _header(b"{{{'descr\n"),
        _header(b"{'descr': '<Q4'}\n", claimed=60000),
        _header(b"(" * 300),
        b"PK\x03\x04 not an archive",
    ],
)
def test_damaged_probabilities(run: Run, photographs: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    result = run("crf", photographs / "a.jpg", tmp_path / "a.npy", "-o", tmp_path / "out")
    assert result.code == 2
    assert f"{tmp_path / 'a.npy'}: not a complete .npy file" in result.err
    assert len(result.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: atrous.create_model(None), "The name of the model is None"),
        (lambda: atrous.create_model("deeplab_v3.resnet50", num_classes=0), "num_classes as 1 or more, not 0"),
        (lambda: atrous.create_model("deeplab_v3.resnet50", num_classes=-1), "num_classes as 1 or more, not -1"),
        (lambda: atrous.create_model("deeplab_v3.resnet50", num_classes=2.5), "num_classes as int, not 2.5"),
        (lambda: atrous.create_model("deeplab_v3.resnet50", num_classes=True), "num_classes as int, not True"),
        (lambda: atrous.create_model("deeplab_v3.resnet50", output_stride=0), "output_stride 0: this network runs at"),
        (lambda: atrous.list_models(None), "The pattern is None"),
        (lambda: atrous.load(None), "The weights are None"),
        (lambda: Segmenter.load(5), "The weights are 5"),
    ],
)
def test_arguments_of_the_wrong_kind(call, message: str) -> None:
    with pytest.raises(AtrousError, match=message):
        call()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: 5", "classes: expected a list, not 5"),
        ("classes: [a, b]\nsplits: 5", "splits: expected a mapping of keys to values, not 5"),
        ("classes: [a, b]\nseed: x", "seed: expected an integer, not 'x'"),
        ("", "expected a mapping of classes"),
    ],
)
def test_files_say_what_they_should_contain(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "classes.yaml").write_text(text)
    with pytest.raises(AtrousError, match=message):
        read_classes_yaml(tmp_path / "classes.yaml")


def test_a_list_of_stages_is_expected(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("lightning_fabric", reason="needs the extra 'train'")
    (tmp_path / "r.yaml").write_text("stages: 5\n")
    result = run("train", tmp_path / "r.yaml")
    assert result.code == 2
    assert "stages must be a list of mappings of keys to values, not 5" in result.err


def test_a_very_long_path(run: Run) -> None:
    result = run("train", "--model", "unet.padded", "--data", f"camvid:{'x' * 5000}", "--dry-run")
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert "File name too long. Check the path" in line
    assert len(line) < 1600


def test_a_folder_without_permission(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "rglob", refuse)
    result = run("predict", tmp_path, "-o", tmp_path / "out")
    assert result.code == 2
    assert result.err == f"error: {tmp_path}: Permission denied. Check the path and its permissions.\n"


def test_the_unexpected_is_one_line_and_a_hint(
    run: Run, photographs: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise IndexError("list index\nout of range")

    monkeypatch.setattr(Segmenter, "__call__", fail)
    arguments = ("predict", photographs / "a.jpg", "-w", weights, "-o", tmp_path / "out")
    result = run(*arguments)
    assert result.code == 1
    assert result.err.strip().startswith("error: IndexError: list index out of range. This is an error of atrous: run")
    assert len(result.err.strip().splitlines()) == 1
    monkeypatch.setenv("ATROUS_DEBUG", "1")
    result = run(*arguments)
    assert result.code == 1
    assert "Traceback (most recent call last)" in result.err


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX alone")
def test_a_name_that_is_not_utf8(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    try:
        shutil.copy(photographs / "a.jpg", os.fsencode(folder) + b"/\xff\xfe.jpg")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "b.png")
    for options in ((), ("--json",), ("--overwrite",)):
        result = run("predict", folder, "-w", weights, "-o", tmp_path / "out", *options)
        assert result.code == 0, result.err
    assert len(list((tmp_path / "out").iterdir())) == 4
