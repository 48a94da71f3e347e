"""Whole runs of seconds: the files they write, how they resume, and how they stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from atrous import AtrousError, Segmenter, load
from atrous.data import open_dataset
from atrous.data.datasets import camvid
from atrous.evaluation import evaluate
from tests.command_line import Run
from tests.training.conftest import command, draw_pair, losses, press_ctrl_c, small, start, write_folder, write_pair

pytest.importorskip("lightning_fabric", reason="needs the extra 'train'")

from atrous.files import read_csv
from atrous.training import Recipe, train
from atrous.training.run_dir import CHECKPOINT, read_checkpoint

pytestmark = pytest.mark.usefixtures("_one_thread")


@pytest.mark.parametrize("split", ["train", "val"])
def test_data_without_any_label_is_refused(run: Run, tmp_path: Path, split: str) -> None:
    data = write_folder(tmp_path / "cells")
    for mask in (data / "masks" / split).iterdir():
        Image.fromarray(np.full_like(np.asarray(Image.open(mask)), 255)).save(mask)
    recipe = small(f"folder:{data}")
    with pytest.raises(AtrousError, match=f"all pixels of the . masks of '{split}' are ignored"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    options = ("--no-check", "--out", tmp_path / "run", "steps=1", "batch=1")
    result = run("train", "--model", "unet.padded", "--data", data, *options)
    assert result.code == 2, result.err
    assert "are ignored. Check the values in the masks" in result.err


def test_an_image_that_a_worker_cannot_read_is_named_in_one_line(run: Run, tmp_path: Path) -> None:
    data = write_folder(tmp_path / "cells")
    damaged = sorted((data / "images" / "train").iterdir())[0]
    damaged.write_bytes(b"no image")
    options = ("--no-check", "--out", tmp_path / "run", "steps=8", "batch=2", "workers=1", "crop=[33,33]")
    result = run("train", "--model", "unet.padded", "model.options.width=0.125", "--data", data, *options)
    assert result.code == 2, result.err
    assert damaged.name in result.err
    assert "Traceback" not in result.err


def test_files_of_a_run(street: str, tmp_path: Path) -> None:
    messages: list[str] = []
    steps: list[int] = []
    recipe = small(street, "evaluate.every=2", "ema=0.9", "batch=2", "accumulate=2", "grad_clip_norm=1")
    result = train(
        recipe, tmp_path / "run", on_message=messages.append, on_progress=lambda progress: steps.append(progress.step)
    )
    assert steps == [1, 2, 3, 4]
    assert {path.name for path in result.folder.iterdir()} == {
        *("recipe.yaml", "environment.json", "log.csv", "evaluations.csv", "curves.png", "tensorboard", "samples"),
        *(CHECKPOINT, "best.safetensors", "last.safetensors", "train.safetensors"),
    }
    assert len(list((result.folder / "samples").iterdir())) == 2
    assert [row["step"] for row in read_csv(result.folder / "evaluations.csv")] == ["2", "4"]
    (entry,) = json.loads((result.folder / "environment.json").read_text())
    assert {"torch", "lightning_fabric", "git", "command"} <= entry.keys()
    card = load(result.last).card
    assert card is not None
    assert card.classes == camvid.CLASSES
    assert card.arguments == {"width": 0.125}
    assert [figure.name for figure in card.measured] == ["mIoU", "pixel accuracy"]
    assert card.measured[0].value == pytest.approx(100 * result.stages["train"]["miou"], abs=0.01)
    assert any("below 8" in message for message in messages)
    with pytest.raises(AtrousError, match="already contains a run"):
        train(recipe, tmp_path / "run")
    with pytest.raises(AtrousError, match=r"differs from the given recipe.*stages\.0\.accumulate: 2 in the run, 1 now"):
        train(small(street, "batch=1"), tmp_path / "run", resume=True)
    path = tmp_path / "run" / "recipe.yaml"
    tree = yaml.safe_load(path.read_text())
    del tree["stages"][0]["preprocessing"]["grid"]  # as written before there was such a key: it has its default
    path.write_text(yaml.safe_dump(tree))
    assert train(recipe, tmp_path / "run", resume=True).folder == tmp_path / "run"
    path.write_text("stages: [")
    with pytest.raises(AtrousError, match=r"recipe\.yaml"):
        train(recipe, tmp_path / "run", resume=True)


def test_a_killed_run_resumes_exactly(street: str, tmp_path: Path) -> None:
    """Kill -9 in mid-epoch, with dropout, augmentation and a moving average: all is the same to the last bit."""
    stages = [{"name": "one", "steps": 3}, {"name": "two", "steps": 7, "optimizer": {"lr": 0.001}}]
    recipe = small(street, "ema=0.9", "model.options.dropout=0.5", "evaluate.max_images=1", stages=stages)
    path = tmp_path / "killed.yaml"
    path.write_text(recipe.to_yaml())
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    uninterrupted = start(command(path, whole))
    process = start(command(path, folder))
    deadline = time.monotonic() + 240
    while len(read_csv(folder / "log.csv")) < 6 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was over before it could be killed"
    state = read_checkpoint(folder)
    assert state is not None
    assert state["stage"] == 1
    assert 0 < state["step"] < 7
    for started in (start(command(path, folder, "--resume")), uninterrupted):
        printed, _ = started.communicate(timeout=240)
        assert started.returncode == 0, printed
    assert len(losses(whole)) == 10
    assert losses(folder) == losses(whole)
    ours, theirs = (load(each / "last.safetensors") for each in (folder, whole))
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())
    assert ours.card == theirs.card.model_copy(update={"measured": ours.card.measured})
    assert read_csv(folder / "evaluations.csv") == read_csv(whole / "evaluations.csv")


def wait_for_steps(process: subprocess.Popen[str], folder: Path) -> None:
    deadline = time.monotonic() + 240
    while len(read_csv(folder / "log.csv")) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_process_that_a_signal_stops_says_how_to_continue(
    street: str, tmp_path: Path, number: int, code: int
) -> None:
    """As `kill`, a cluster or Ctrl-C stop it: the status of the process itself, which `train && evaluate` looks at."""
    path, folder = tmp_path / "recipe.yaml", tmp_path / "my run"
    path.write_text(small(street, "steps=100000", "evaluate.every=100000", "workers=2").to_yaml())
    process = start(command(path, folder), own_group=True)
    wait_for_steps(process, folder)
    os.killpg(process.pid, number)  # a terminal, systemd and clusters signal the loading workers, too
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == code, printed
    step = losses(folder)[-1][1]
    state = read_checkpoint(folder)
    assert state is not None
    assert str(state["step"]) == step
    assert f"stopped after step {step}; continue with: atrous train {path} --out '{folder}' --resume" in printed


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_a_killed_loading_worker_is_one_line(street: str, tmp_path: Path) -> None:
    """As the kernel does when memory runs out."""
    path, folder = tmp_path / "recipe.yaml", tmp_path / "run"
    path.write_text(small(street, "steps=100000", "evaluate.every=100000", "workers=2").to_yaml())
    process = start(command(path, folder), own_group=True)
    wait_for_steps(process, folder)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [pid for pid in children if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(workers[-1]), signal.SIGKILL)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 2, printed
    assert "error: A process that loads images was killed" in printed
    assert "--resume" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("schedule", ["constant", "step: {milestones: [3, 6]}", "poly"])
def test_a_run_goes_on_past_its_end(street: str, tmp_path: Path, schedule: str) -> None:
    """It equals the longer training, unless the schedule depends on the number of steps, as poly does."""

    def recipe(steps: int) -> Recipe:
        return small(street, f"steps={steps}", f"schedule={{{schedule}}}", "evaluate.max_images=1")

    train(recipe(4), tmp_path / "run")
    train(recipe(7), tmp_path / "run", resume=True)
    train(recipe(7), tmp_path / "whole")
    ours, theirs = (load(tmp_path / each / "last.safetensors").state_dict() for each in ("run", "whole"))
    rates, expected = ([row["lr"] for row in read_csv(tmp_path / each / "log.csv")] for each in ("run", "whole"))
    assert rates[4:] == expected[4:]
    assert len(rates) == 7
    if schedule == "poly":
        assert rates[:4] != expected[:4]
    else:
        assert losses(tmp_path / "run") == losses(tmp_path / "whole")
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    with pytest.raises(AtrousError, match=r"stage 'train' has made 7 steps already, and is to end after 5"):
        train(recipe(5), tmp_path / "run", resume=True)
    assert train(recipe(7), tmp_path / "run", resume=True).stages["train"]["miou"] >= 0


def test_a_finished_stage_keeps_its_length(street: str, tmp_path: Path) -> None:
    stages = [{"name": "one"}, {"name": "two"}]
    common = (street, "steps=1", "evaluate.max_images=1")
    train(small(*common, stages=stages), tmp_path / "run")
    with pytest.raises(AtrousError, match=r"stages\.0\.steps: 1 in the run, 2 now\).*that are not finished, steps"):
        train(small(*common, "steps=2", stages=stages), tmp_path / "run", resume=True)
    train(small(*common, "stages.two.steps=2", stages=stages), tmp_path / "run", resume=True)
    assert [row[:2] for row in losses(tmp_path / "run")] == [("one", "1"), ("two", "1"), ("two", "2")]


def test_patience_stops_early(street: str, tmp_path: Path) -> None:
    """A network that does not change is the best in its first validation; two more do not improve it."""
    common = (street, "steps=9", "evaluate.every=2", "evaluate.max_images=1", "optimizer.lr=1e-30")
    recipe = small(*common, "patience=2", "batch_norm=frozen", "checkpoint_every=100")
    messages: list[str] = []
    result = train(recipe, tmp_path / "run", on_message=messages.append)
    assert len(losses(tmp_path / "run")) == 6
    assert any("stopped early after step 6 of 9, because in the last 2 validations" in message for message in messages)
    assert result.last.is_file()
    assert (tmp_path / "run" / "train.safetensors").is_file()
    train(recipe, tmp_path / "run", resume=True)
    assert len(losses(tmp_path / "run")) == 6
    train(small(*common, "patience=0", "batch_norm=frozen"), tmp_path / "run", resume=True)
    assert len(losses(tmp_path / "run")) == 9
    with pytest.raises(AtrousError, match=r"patience counts validations: give data\.val"):
        small(street, "patience=2", "data.val=")


def test_images_that_were_trained_on_do_not_validate(street: str, tmp_path: Path) -> None:
    """Neither those of the stage itself, nor of an earlier one, nor of the initial weights, unless it is asked for."""
    both = [f"{street}?split=train", f"{street}?split=val"]
    message = r"camvid val: 3 of its 3 images were trained on \(val_0, val_1, val_2\).*data.allow_overlap=true"
    with pytest.raises(AtrousError, match=message):
        train(small(street, f"data.train={both}"), tmp_path / "own")
    stages = [{"name": "one", "steps": 1, "data": {"train": both, "val": ""}}, {"name": "two", "steps": 1}]
    with pytest.raises(AtrousError, match=message):
        train(small(street, stages=stages), tmp_path / "earlier")
    weights = tmp_path / "earlier" / "one.safetensors"
    with pytest.raises(AtrousError, match=message):
        train(small(street, f"weights={weights}", "steps=1"), tmp_path / "initial")
    result = train(small(street, f"data.train={both}", "data.allow_overlap=true", "steps=1"), tmp_path / "allowed")
    model = load(result.last)
    assert model.card is not None
    assert model.card.measured
    data = open_dataset(f"{street}?split=val")
    with pytest.raises(AtrousError, match="were trained on"):
        evaluate(Segmenter(model), data)
    assert evaluate(Segmenter(model), data, allow_overlap=True).confusion.counts.sum() > 0


@pytest.mark.parametrize(
    "optimizer", ["{name: sgd, lr: 0.01, momentum: 0}", "{name: sgd, lr: 0.01}", "{name: adamw, lr: 0.01}"]
)
def test_checkpoints_do_not_change_the_optimizer(optimizer: str, street: str, tmp_path: Path) -> None:
    """One is written before the first step, and one after it is resumed."""
    recipe = small(street, f"optimizer={optimizer}", "checkpoint_every=1", "model.options.dropout=0")
    rare = small(street, f"optimizer={optimizer}", "checkpoint_every=100", "model.options.dropout=0")
    train(rare, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "begun", on_progress=press_ctrl_c)
    train(recipe, tmp_path / "begun", resume=True)
    assert losses(tmp_path / "begun") == losses(tmp_path / "whole")
    state = read_checkpoint(tmp_path / "begun")
    assert state is not None
    steps = {float(entry["step"]) for entry in state["optimizer"]["state"].values() if "step" in entry}
    assert steps == ({4.0} if "adamw" in optimizer else set())


def test_a_loss_that_is_not_finite_names_the_images_and_keeps_the_checkpoint(street: str, tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match=r"The loss is (nan|inf) in step \d of stage 'train', on train_\d"):
        train(small(street, "optimizer.lr=1e30", "schedule=constant"), tmp_path / "run")
    state = read_checkpoint(tmp_path / "run")
    assert state is not None
    assert all(value.isfinite().all() for value in state["model"].values() if value.is_floating_point())


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        ((), {"accelerator": "gpuu"}, "There is no device 'gpuu'"),
        ((), {"strategy": "fsdp", "devices": 1}, "at least 2"),
        (("model.options.width=wide",), {}, "takes width as float, not 'wide'"),
        (("loss={cross_entropy: {class_weights: [1, 2]}}",), {}, "2"),
        (("weights=nope",), {}, "nope"),
        (("batch=4", "accumulate=3"), {}, "not divisible into 3 micro-batches for each of 1 processes"),
    ],
)
def test_a_failed_start_does_not_block_the_next(
    overrides: tuple[str, ...], options: dict, message: str, street: str, tmp_path: Path
) -> None:
    with pytest.raises(AtrousError, match=message):
        train(small(street, *overrides), tmp_path / "run", **options)
    train(small(street, "steps=1"), tmp_path / "run")


def test_micro_batches_have_the_summed_loss_of_their_batch(street: str, tmp_path: Path) -> None:
    common = ("loss={cross_entropy: {reduction: sum}}", "optimizer.lr=1e-6", "precision=64-true")
    common += ("batch_norm=frozen", "model.options.dropout=0", "evaluate.max_images=1")
    for accumulate in (1, 4):
        train(small(street, *common, f"accumulate={accumulate}"), tmp_path / str(accumulate))
    one, four = ([float(loss) for _, _, loss in losses(tmp_path / each)] for each in ("1", "4"))
    assert four == pytest.approx(one, rel=1e-9)
    one, four = (load(tmp_path / each / "last.safetensors").state_dict() for each in ("1", "4"))
    torch.testing.assert_close(four, one, rtol=1e-6, atol=1e-9)


def test_ctrl_c_writes_a_checkpoint_first(street: str, tmp_path: Path) -> None:
    recipe = small(street, "checkpoint_every=100")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", on_progress=press_ctrl_c)
    state = read_checkpoint(tmp_path / "run")
    assert state is not None
    assert state["step"] == 2
    train(recipe, tmp_path / "run", resume=True)
    assert [step for _, step, _ in losses(tmp_path / "run")] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("loss", ["cross_entropy", "dice", "lovasz"])
def test_one_image_batch_1_and_a_class_without_pixels(tmp_path: Path, loss: str) -> None:
    data = f"folder:{write_folder(tmp_path / 'own', ('sky', 'ground', 'unicorn'), images=1)}"
    for seed, mask in enumerate((tmp_path / "own" / "masks").rglob("*.png")):
        pixels, labels = draw_pair(seed, 2)
        write_pair(tmp_path / "own" / "images" / mask.relative_to(tmp_path / "own" / "masks"), mask, pixels, labels)
    result = train(small(data, "batch=1", f"loss={loss}", "steps=2"), tmp_path / "run")
    assert np.isnan(result.stages["train"]["iou unicorn"]) or result.stages["train"]["iou unicorn"] == 0
    assert np.isfinite(result.stages["train"]["miou"])
