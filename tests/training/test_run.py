"""Whole runs of seconds: what they leave, how they resume, how several processes share them, and what stops them."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from atrous import AtrousError, load
from atrous.data.datasets import camvid
from tests.training.conftest import draw_pair, small, write_camvid, write_folder, write_pair

pytest.importorskip("lightning", reason="needs the extra 'train'")

from atrous.training import train
from atrous.training.logs import read_rows
from atrous.training.run import CHECKPOINT, Progress, read_checkpoint

SOURCE = Path(__file__).parents[2] / "src"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"camvid:{write_camvid(tmp_path_factory.mktemp('street') / 'camvid')}"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def command(recipe_file: Path, folder: Path, *more: str) -> list[str]:
    return ["-m", "atrous.cli.main", "train", str(recipe_file), "--out", str(folder), "--no-check", *more]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def losses(folder: Path) -> list[tuple[str, str, str]]:
    return [(row["stage"], row["step"], row["loss"]) for row in read_rows(folder / "log.csv")]


def test_what_a_run_leaves(street: str, tmp_path: Path) -> None:
    said: list[str] = []
    seen: list[int] = []
    recipe = small(street, "evaluate.every=2", "ema=0.9", "batch=2", "accumulate=2", "clip=1")
    result = train(
        recipe, tmp_path / "run", on_message=said.append, on_progress=lambda progress: seen.append(progress.step)
    )
    assert seen == [1, 2, 3, 4]
    assert {path.name for path in result.folder.iterdir()} == {
        *("recipe.yaml", "environment.json", "log.csv", "evaluations.csv", "curves.png", "tensorboard", "samples"),
        *(CHECKPOINT, "best.safetensors", "last.safetensors", "train.safetensors"),
    }
    assert len(list((result.folder / "samples").iterdir())) == 2
    assert [row["step"] for row in read_rows(result.folder / "evaluations.csv")] == ["2", "4"]
    (entry,) = json.loads((result.folder / "environment.json").read_text())
    assert {"torch", "lightning", "git", "command"} <= entry.keys()
    card = load(result.last).card
    assert card is not None
    assert card.classes == camvid.CLASSES
    assert card.arguments == {"width": 0.125}
    assert [figure.name for figure in card.measured] == ["mIoU", "pixel accuracy"]
    assert card.measured[0].value == pytest.approx(100 * result.stages["train"]["miou"], abs=0.01)
    assert any("below 8" in message for message in said)
    with pytest.raises(AtrousError, match="there is a run already"):
        train(recipe, tmp_path / "run")
    with pytest.raises(AtrousError, match=r"another recipe.*stages\.0\.accumulate: 2 there, 1 here"):
        train(small(street, "batch=1"), tmp_path / "run", resume=True)
    path = tmp_path / "run" / "recipe.yaml"
    tree = yaml.safe_load(path.read_text())
    del tree["stages"][0]["preprocessing"]["grid"]  # as written before there was such a key: it has its default
    path.write_text(yaml.safe_dump(tree))
    assert train(recipe, tmp_path / "run", resume=True).folder == tmp_path / "run"
    path.write_text("stages: [")
    with pytest.raises(AtrousError, match=r"recipe\.yaml"):
        train(recipe, tmp_path / "run", resume=True)


def test_a_killed_run_goes_on_as_if_nothing_had_been(street: str, tmp_path: Path) -> None:
    """Kill -9 in mid-epoch, with dropout, augmentation and a moving average: all is the same to the last bit."""
    stages = [{"name": "one", "steps": 3}, {"name": "two", "steps": 7, "optimizer": {"lr": 0.001}}]
    recipe = small(street, "ema=0.9", "model.options.dropout=0.5", "evaluate.images=1", stages=stages)
    path = tmp_path / "killed.yaml"
    path.write_text(recipe.to_yaml())
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    uninterrupted = start(command(path, whole))
    process = start(command(path, folder))
    deadline = time.monotonic() + 240
    while len(read_rows(folder / "log.csv")) < 6 and process.poll() is None and time.monotonic() < deadline:
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
    assert read_rows(folder / "evaluations.csv") == read_rows(whole / "evaluations.csv")


def press_ctrl_c(progress: Progress) -> None:
    """After the first step of those that are made."""
    if progress.step == 1:
        os.kill(os.getpid(), signal.SIGINT)


def on_two_processes(path: Path, folder: Path, *more: str) -> None:
    port = str(20000 + os.getpid() % 20000)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    done = subprocess.run(
        [sys.executable, *launcher, *command(path, folder, "--device", "cpu", *more)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def assert_same_training(ours: Path, theirs: Path, rel: float) -> None:
    first, second = ([float(loss) for _, _, loss in losses(folder)] for folder in (ours, theirs))
    assert first == pytest.approx(second, rel=rel)
    both, one = (load(folder / "last.safetensors").state_dict() for folder in (ours, theirs))
    for key in one:
        torch.testing.assert_close(both[key], one[key], rtol=1e-5, atol=1e-6, msg=key)
    both, one = (read_checkpoint(folder) for folder in (ours, theirs))
    assert both is not None
    assert one is not None
    assert both["optimizer"]["param_groups"] == one["optimizer"]["param_groups"]
    torch.testing.assert_close(both["optimizer"]["state"], one["optimizer"]["state"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(both["ema"], one["ema"], rtol=1e-5, atol=1e-6)
    both, one = (read_rows(folder / "evaluations.csv")[-1] for folder in (ours, theirs))
    assert float(both["pixel_accuracy"]) == pytest.approx(float(one["pixel_accuracy"]), abs=1e-3)


@pytest.mark.parametrize(
    ("strategy", "settings", "rel"),
    [
        ("ddp", ("precision=64-true",), 1e-9),
        ("fsdp", ("batch_norm=frozen",), 1e-5),
    ],
)
def test_two_processes_are_one_with_the_doubled_batch(
    strategy: str, settings: tuple[str, ...], rel: float, street: str, tmp_path: Path
) -> None:
    """Over gloo: the batch of the recipe is shared out, statistics and losses span both processes; resumed ones too.

    In 64 bits, for in 32 the statistics of a fresh network of such a width enlarge rounding errors to percents of the
    second gradient. FSDP has no 64 bits, so its statistics are frozen.
    """
    recipe = small(street, "model.options.dropout=0", "ema=0.5", "clip=1", *settings)
    train(recipe, tmp_path / "alone")
    path = tmp_path / "small.yaml"
    path.write_text(recipe.to_yaml())
    on_two_processes(path, tmp_path / "both", "--strategy", strategy)
    assert_same_training(tmp_path / "both", tmp_path / "alone", rel)

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "begun", on_progress=press_ctrl_c)
    on_two_processes(path, tmp_path / "begun", "--strategy", strategy, "--resume")
    assert_same_training(tmp_path / "begun", tmp_path / "alone", rel)


def test_networks_that_run_their_parts_themselves_can_be_shared_out(street: str, tmp_path: Path) -> None:
    """An auxiliary head, whose dropout differs between one process and two, but not between two and two."""
    path = tmp_path / "small.yaml"
    path.write_text(small(street, "batch_norm=frozen", "model.options.auxiliary=true", "steps=2").to_yaml())
    for strategy in ("ddp", "fsdp"):
        on_two_processes(path, tmp_path / strategy, "--strategy", strategy)
    assert_same_training(tmp_path / "fsdp", tmp_path / "ddp", rel=1e-5)


@pytest.mark.parametrize(
    "optimizer", ["{name: sgd, lr: 0.01, momentum: 0}", "{name: sgd, lr: 0.01}", "{name: adamw, lr: 0.01}"]
)
def test_a_checkpoint_leaves_the_optimizer_as_it_is(optimizer: str, street: str, tmp_path: Path) -> None:
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


def test_one_process_shares_with_nobody(street: str, tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match="fsdp shares a network out over processes, and there is one"):
        train(small(street), tmp_path / "run", strategy="fsdp", devices=1)
    with pytest.raises(AtrousError, match="precision=64-true cannot be had with fsdp"):
        train(small(street, "precision=64-true"), tmp_path / "other", strategy="fsdp", devices=2)
    with pytest.raises(AtrousError, match="no strategy 'zero'"):
        train(small(street), tmp_path / "third", strategy="zero")


def test_no_image_is_judged_twice(street: str) -> None:
    from atrous.data import open_dataset
    from atrous.training.run import build
    from atrous.training.validate import judge

    recipe = small(street)
    data = open_dataset(f"{street}?split=val")
    model = build(recipe, recipe.stages[0], data)
    assert model.card is not None
    whole = judge(model, model.card, data, recipe.stages[0]).matrix
    parts = [judge(model, model.card, data, recipe.stages[0], rank=rank, processes=2).matrix for rank in range(2)]
    assert parts[0] + parts[1] == whole
    assert whole.counts.sum() == sum((data.labels(index) != 255).sum() for index in range(3))


def test_a_loss_that_is_not_finite_names_the_images_and_keeps_the_checkpoint(street: str, tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match=r"The loss is (nan|inf) in step \d of stage 'train', on train_\d"):
        train(small(street, "optimizer.lr=1e30", "schedule=fixed"), tmp_path / "run")
    state = read_checkpoint(tmp_path / "run")
    assert state is not None
    assert all(value.isfinite().all() for value in state["model"].values() if value.is_floating_point())


@pytest.mark.parametrize(
    ("overrides", "how", "message"),
    [
        ((), {"accelerator": "gpuu"}, "There is no training on"),
        ((), {"strategy": "fsdp", "devices": 1}, "there is one"),
        (("model.options.width=wide",), {}, "takes width as float, not 'wide'"),
        (("loss={cross_entropy: {class_weights: [1, 2]}}",), {}, "2"),
        (("weights=nope",), {}, "nope"),
    ],
)
def test_a_start_that_fails_does_not_bar_the_next(
    overrides: tuple[str, ...], how: dict, message: str, street: str, tmp_path: Path
) -> None:
    with pytest.raises(AtrousError, match=message):
        train(small(street, *overrides), tmp_path / "run", **how)
    train(small(street, "steps=1"), tmp_path / "run")


def test_ctrl_c_writes_a_checkpoint_first(street: str, tmp_path: Path) -> None:
    recipe = small(street, "checkpoint_every=100")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", on_progress=press_ctrl_c)
    state = read_checkpoint(tmp_path / "run")
    assert state is not None
    assert state["step"] == 2
    train(recipe, tmp_path / "run", resume=True)
    assert [step for _, step, _ in losses(tmp_path / "run")] == ["1", "2", "3", "4"]


def test_a_full_disk(street: str, tmp_path: Path) -> None:
    """No file may grow beyond some size, which is how a full disk looks to those who write."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limit[1]))
        with pytest.raises(AtrousError, match=r"Cannot write .*checkpoint.pt"):
            train(small(street), tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert not (tmp_path / "run" / CHECKPOINT).exists()
    assert not list((tmp_path / "run").glob(".checkpoint*"))


def test_a_damaged_checkpoint(street: str, tmp_path: Path) -> None:
    recipe = small(street, "steps=1", "evaluate.images=1")
    train(recipe, tmp_path / "run")
    path = tmp_path / "run" / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(AtrousError, match="the checkpoint is damaged"):
        train(recipe, tmp_path / "run", resume=True)


@pytest.mark.parametrize("loss", ["cross_entropy", "dice", "lovasz"])
def test_one_image_batch_1_and_a_class_without_pixels(tmp_path: Path, loss: str) -> None:
    data = f"folder:{write_folder(tmp_path / 'own', ('sky', 'ground', 'unicorn'), images=1)}"
    for mask in (tmp_path / "own" / "masks").rglob("*.png"):
        pixels, labels = draw_pair(0, 2)
        write_pair(tmp_path / "own" / "images" / mask.relative_to(tmp_path / "own" / "masks"), mask, pixels, labels)
    result = train(small(data, "batch=1", f"loss={loss}", "steps=2"), tmp_path / "run")
    assert np.isnan(result.stages["train"]["iou unicorn"]) or result.stages["train"]["iou unicorn"] == 0
    assert np.isfinite(result.stages["train"]["miou"])


def test_a_batch_that_cannot_be_shared_out(street: str, tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match="cannot be shared out evenly among 1 processes in 3 portions"):
        train(small(street, "batch=4", "accumulate=3"), tmp_path / "run")
