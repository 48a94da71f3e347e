"""Two processes over gloo, DDP and FSDP, against one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from atrous import load
from atrous.training.fsdp import load_optimizer_state, optimizer_state
from tests.training.conftest import losses, press_ctrl_c, run_on_two_processes, small, tiny_model

pytest.importorskip("lightning_fabric", reason="needs the extra 'train'")

from atrous.training import train
from atrous.training.logs import read_rows
from atrous.training.run_dir import read_checkpoint

pytestmark = pytest.mark.usefixtures("_one_thread")


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
def test_two_processes_equal_one_with_the_same_batch(
    strategy: str, settings: tuple[str, ...], rel: float, street: str, tmp_path: Path
) -> None:
    """Over gloo: the batch of the recipe is shared out, statistics and losses span both processes; resumed ones too.

    In 64 bits, for in 32 the statistics of a fresh network of such a width enlarge rounding errors to percents of the
    second gradient. FSDP has no 64 bits, so its statistics are frozen.
    """
    recipe = small(street, "model.options.dropout=0", "ema=0.5", "grad_clip_norm=1", *settings)
    train(recipe, tmp_path / "alone")
    path = tmp_path / "small.yaml"
    path.write_text(recipe.to_yaml())
    run_on_two_processes(path, tmp_path / "both", "--strategy", strategy)
    assert_same_training(tmp_path / "both", tmp_path / "alone", rel)

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "begun", on_progress=press_ctrl_c)
    run_on_two_processes(path, tmp_path / "begun", "--strategy", strategy, "--resume")
    assert_same_training(tmp_path / "begun", tmp_path / "alone", rel)


def test_networks_with_an_auxiliary_head_can_be_sharded(street: str, tmp_path: Path) -> None:
    """An auxiliary head, whose dropout differs between one process and two, but not between two and two."""
    path = tmp_path / "small.yaml"
    path.write_text(small(street, "batch_norm=frozen", "model.options.auxiliary=true", "steps=2").to_yaml())
    for strategy in ("ddp", "fsdp"):
        run_on_two_processes(path, tmp_path / strategy, "--strategy", strategy)
    assert_same_training(tmp_path / "fsdp", tmp_path / "ddp", rel=1e-5)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_optimizer_state_by_parameter_name(kind: type[torch.optim.Optimizer]) -> None:
    """The state of one optimizer, loaded into another whose parameters are in another order, makes the same steps."""
    models = [tiny_model().classifier for _ in range(2)]
    options = {"lr": 0.1, **({"momentum": 0.9} if kind is torch.optim.SGD else {})}
    first = kind(models[0].parameters(), **options)
    second = kind(reversed(list(models[1].parameters())), **options)
    for model, optimizer in zip(models, (first, second), strict=True):
        model(torch.ones(1, model.in_channels, 2, 2)).square().sum().backward()
        first.step() if optimizer is first else None
    models[1].load_state_dict(models[0].state_dict())
    load_optimizer_state(models[1], second, optimizer_state(models[0], first))
    for model, optimizer in zip(models, (first, second), strict=True):
        for value in model.parameters():
            value.grad = torch.ones_like(value)
        optimizer.step()
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(ours, theirs)
