"""`atrous train` as it is typed, up to where the training begins, and once to its end."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atrous.backbones import base, create_backbone
from atrous.files import read_csv
from atrous.models import create_model
from atrous.training.schedules import set_learning_rate
from atrous.weights import load, read_card, save
from atrous.weights.download import compute_sha256
from tests.command_line import Run
from tests.training.conftest import write_cells, write_folder
from tests.weights.test_pretrained import serve

pytest.importorskip("lightning_fabric", reason="needs the extra 'train'")
Train = Callable[..., tuple[int, str]]
TINY = ("model.options.width=0.125", "transforms=[{crop: {height: 33, width: 33}}]", "batch=2", "workers=0")


@pytest.fixture
def train(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Train:
    """Return a function that runs `atrous train` in an empty folder."""

    def train(*arguments: object) -> tuple[int, str]:
        monkeypatch.chdir(tmp_path)
        result = run("train", *arguments)
        return result.code, result.out + result.err

    return train


def test_a_folder_of_your_own(train: Train, tmp_path: Path) -> None:
    data = write_folder(tmp_path / "own")
    code, printed = train("--model", "deeplab_v3_plus.mobilenet_v2", "--data", data, "steps=2", *TINY)
    assert code == 0, printed
    for text in ("74,", "2 of 2 images of 33 x 33", "validation on 1 of", "mIoU", "IoU: outside"):
        assert text in printed
    best = tmp_path / "runs" / "deeplab_v3_plus.mobilenet_v2" / "best.safetensors"
    card = read_card(best)
    assert card.align_corners
    assert card.preprocessing.grid == 16

    model = load(best)
    model.card = card.model_copy(update={"align_corners": False, "arguments": {"width": 0.125}})
    other = save(model, tmp_path / "other.safetensors")
    code, printed = train(
        *("--model", "deeplab_v3_plus.mobilenet_v2", "--data", data, f"weights={other}", "steps=1", *TINY),
        *("--out", tmp_path / "finer"),
    )
    assert code == 0, printed
    assert not read_card(tmp_path / "finer" / "last.safetensors").align_corners


def test_bad_labels_are_refused_before_anything_is_trained(train: Train, tmp_path: Path) -> None:
    data = write_folder(tmp_path / "own")
    mask = next((data / "masks" / "train").glob("*.png"))
    Image.fromarray(np.full((60, 80), 7, np.uint8)).save(mask)
    code, printed = train("--model", "unet.padded", "--data", data, *TINY)
    assert code == 2
    assert "nothing was trained" in printed
    assert f"{mask.name}: value 7" in printed.replace("\n", "")
    assert not (tmp_path / "runs").exists()


def test_the_plan_alone(train: Train, tmp_path: Path) -> None:
    data = write_cells(tmp_path / "own")
    code, printed = train("unet_folder", "--data", f"folder:{data}", "--dry-run")
    assert code == 0, printed
    assert "20,000 of 1 images of 572 x 572" in printed
    assert "GB per process" in printed
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_downloads_nothing(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a dry run must not download")

    monkeypatch.setattr("atrous.weights.download.download", refuse)
    data = write_folder(tmp_path / "own")
    model, weights = "deeplab_v3.resnet50", "deeplab_v3.resnet50.coco_with_voc_labels"
    code, printed = train("--model", model, "--data", data, f"weights={weights}", "--dry-run", *TINY)
    assert code == 0, printed
    assert "to be downloaded from https://download.pytorch.org/models/deeplabv3_resnet50_coco-cd0a2569.pth" in printed
    code, printed = train("--model", model, "--data", data, "backbone_weights=imagenet", "--dry-run", "batch=2")
    assert code == 0, printed
    assert "backbone_weights imagenet, to be downloaded from https://download.pytorch.org/models/resnet50-" in printed


@pytest.fixture
def classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, torch.Tensor]]:
    """Serve weights for the backbone MobileNetV2 on this machine, and yield them."""
    torch.manual_seed(7)
    backbone = create_backbone("mobilenet_v2")
    folder = tmp_path / "server"
    folder.mkdir()
    torch.save(backbone.state_dict(), folder / "classifier.pth")
    with serve(folder) as url:
        released = replace(
            backbone.pretrained["imagenet"],
            url=f"{url}/classifier.pth",
            sha256=compute_sha256(folder / "classifier.pth"),
            mean=(1.0, 2.0, 3.0),
        )
        monkeypatch.setitem(base._PRETRAINED["mobilenet_v2"], "imagenet", (released,))
        yield backbone.state_dict()


OWN = ("--model", "deeplab_v3.mobilenet_v2", "steps=1", "optimizer.lr=1e-12", *TINY[1:])
"""A network with a pretrained backbone, which hardly changes in training."""


def test_the_backbone_starts_from_imagenet_weights(
    train: Train, tmp_path: Path, classifier: dict[str, torch.Tensor]
) -> None:
    data = write_folder(tmp_path / "own")
    code, printed = train(*OWN, "--data", data, "--dry-run")
    assert code == 0, printed
    cached = Path(os.environ["ATROUS_CACHE"]) / "classifier.pth"
    planned = "".join(printed.split())
    assert "backbone_weightsimagenet,tobedownloadedfromhttp://127.0.0.1" in planned
    assert "classifier.pthonce;backbone_weights=noneswitchesthisoff" in planned
    assert not cached.exists()

    code, printed = train(*OWN, "--data", data)
    assert code == 0, printed
    assert cached.is_file()
    assert "random weights" not in printed
    trained = load(tmp_path / "runs" / "deeplab_v3.mobilenet_v2" / "last.safetensors")
    assert trained.card is not None
    assert trained.card.preprocessing.mean == (1.0, 2.0, 3.0)
    assert "ImageNet" in trained.card.source
    for name, value in trained.backbone.named_parameters():
        torch.testing.assert_close(value, classifier[name], atol=1e-6, rtol=0)
    code, printed = train(*OWN, "--data", data, "--resume")
    assert code == 0, printed


def test_without_a_connection_it_starts_from_random_weights(
    train: Train, tmp_path: Path, classifier: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_folder(tmp_path / "own")
    (tmp_path / "server" / "classifier.pth").unlink()
    code, printed = train(*OWN, "--data", data)
    assert code == 0, printed
    printed = printed.replace("\n", "")
    assert "training starts from random weights, because ImageNet weights are unavailable: http://127.0.0.1" in printed
    assert "the server answered 404" in printed
    run = tmp_path / "runs" / "deeplab_v3.mobilenet_v2"
    assert "ImageNet" not in read_card(run / "last.safetensors").source
    code, printed = train(*OWN, "--data", data, "--resume")  # by then there is a connection
    assert code == 0, printed
    assert "unavailable" not in printed

    monkeypatch.setenv("ATROUS_OFFLINE", "1")
    code, printed = train(*OWN, "--data", data, "--dry-run")
    assert code == 0, printed
    assert "ATROUS_OFFLINE is set" in printed.replace("\n", " ")
    assert re.search(r"initial weights +random", printed)
    code, printed = train(*OWN, "--data", data, "backbone_weights=imagenet", "--dry-run")
    assert code == 2
    assert "ATROUS_OFFLINE is set" in printed.replace("\n", " ")


@pytest.mark.parametrize("override", ["weights=none", "backbone_weights=none", "backbone_weights="])
@pytest.mark.usefixtures("classifier")
def test_initial_weights_are_switched_off(train: Train, tmp_path: Path, override: str) -> None:
    data = write_folder(tmp_path / "own")
    code, printed = train(*OWN, "--data", data, override, "--dry-run")
    assert code == 0, printed
    assert re.search(r"initial weights +random", printed)


def test_all_keys_are_listed(train: Train) -> None:
    code, printed = train("--keys")
    assert code == 0
    assert "optimizer.lr  number, > 0, default 0.007\n    Base learning rate" in printed
    assert re.search(r"^crop  false or integer or 2 × integer$", printed, flags=re.MULTILINE)


def test_ten_validations(train: Train, tmp_path: Path) -> None:
    data = write_folder(tmp_path / "own")
    code, printed = train("--model", "unet.padded", "--data", data, "steps=25", "model.options.width=0.0625", *TINY[1:])
    assert code == 0, printed
    rows = read_csv(tmp_path / "runs" / "unet.padded" / "evaluations.csv")
    assert [row["step"] for row in rows] == ["3", "6", "9", "12", "15", "18", "21", "24", "25"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Give a recipe"),
        (("segnet_camvid", "unet_folder"), "Give one recipe"),
        (("segnet_camvid", "--model", "unet.valid"), "write model=unet.valid"),
        (("--model", "unet.paded", "--data", "x"), "Did you mean 'unet.padded'"),
        (("segnet_camvid", "stps=3"), "Did you mean 'steps'"),
        (("segnet_camvid", "--data", "camvid:nowhere"), "no such folder"),
        (("segnet_camvid", "model.options.num_classes=5"), "the data set determines the number of classes"),
        (("segnet_camvid", "--strategy", "fspd"), "fsdp"),
        (("segnet_camvid", "--devices", "-1"), "--devices"),
        (("pspnet.resnet50", "--data", "x"), "--model pspnet.resnet50"),
    ],
)
def test_invalid_arguments(train: Train, arguments: tuple[str, ...], message: str) -> None:
    code, printed = train(*arguments)
    assert code == 2
    assert message in printed.replace("\n", "")


def test_resuming_needs_no_initial_weights(train: Train, tmp_path: Path) -> None:
    data, file = write_folder(tmp_path / "own"), tmp_path / "backbone.pth"
    model = "deeplab_v3.mobilenet_v2"
    torch.save(create_model(model, width=0.125).backbone.state_dict(), file)
    arguments = ("--model", model, "--data", data, f"backbone_weights={file}", "steps=1", *TINY)
    code, printed = train(*arguments)
    assert code == 0, printed
    assert f"backbone_weights{file}" in "".join(printed.split())  # long paths are wrapped
    file.unlink()
    code, printed = train(*arguments, "--resume")
    assert code == 0, printed
    assert "the checkpoint of the run" in printed


def test_a_run_is_resumed_by_its_folder(train: Train, tmp_path: Path) -> None:
    data = write_folder(tmp_path / "own")
    arguments = ("--model", "deeplab_v3.mobilenet_v2", "--data", data, "epochs=1", "--out", "runs/street", *TINY)
    code, printed = train(*arguments)
    assert code == 0, printed
    code, printed = train("runs/street", "epochs=2")
    assert code == 2
    assert "runs/street is a run: continue it with --resume" in printed.replace("\n", "")
    code, printed = train("--resume", "runs/street", "epochs=2")
    assert code == 0, printed
    rows = read_csv(tmp_path / "runs" / "street" / "log.csv")
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    code, printed = train("--resume", "runs/street", "batch=4")
    assert code == 2
    assert "stages.0.batch: 2 in the run, 4 now" in printed.replace("\n", " ")


def test_a_run_of_another_name_is_resumed_from_what_it_began_with(train: Train, tmp_path: Path) -> None:
    data = write_folder(tmp_path / "own")
    arguments = ("--model", "deeplab_v3.mobilenet_v2", "--data", data, "name=street", *TINY)
    code, printed = train(*arguments, "steps=1", "backbone_weights=none")
    assert code == 0, printed
    code, printed = train(*arguments, "steps=2", "--resume")
    assert code == 0, printed
    assert [row["step"] for row in read_csv(tmp_path / "runs" / "street" / "log.csv")] == ["1", "2"]


def test_resuming_without_a_run(train: Train, tmp_path: Path) -> None:
    data = write_cells(tmp_path / "own")
    code, printed = train("unet_folder", "--data", f"folder:{data}", "--resume")
    assert code == 2
    assert "no run to resume" in printed.replace("\n", "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_with_its_code_and_says_how_to_resume(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    data = write_folder(tmp_path / "my own")
    original, calls = set_learning_rate, []

    def interrupt(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            signal.raise_signal(number)
        original(*arguments)

    monkeypatch.setattr(sys.modules["atrous.training.train"], "set_learning_rate", interrupt)
    arguments = ("--model", "deeplab_v3_plus.mobilenet_v2", "--data", data, "steps=3", *TINY)
    before = signal.getsignal(signal.SIGTERM)
    exit_code, printed = train(*arguments)
    assert exit_code == code
    assert signal.getsignal(signal.SIGTERM) is before
    (command,) = re.findall(r"stopped after step 1; continue with: atrous (.+)", printed)
    assert f"--data '{data}'" in command
    exit_code, printed = train(*shlex.split(command)[1:])
    assert exit_code == 0, printed
    assert len(calls) == 5


def test_data_without_labels_are_refused(train: Train, tmp_path: Path) -> None:
    data = write_folder(tmp_path / "own")
    for mask in (data / "masks").rglob("*.png"):
        Image.fromarray(np.full((60, 80), 255, np.uint8)).save(mask)
    yaml = data / "classes.yaml"
    yaml.write_text(f"{yaml.read_text()}ignore: [255]\n")
    code, printed = train("--model", "unet.padded", "--data", data, *TINY)
    assert code == 2
    assert "are ignored" in printed
    assert "nothing was trained" in printed
