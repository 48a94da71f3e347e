"""Two processes over gloo, DDP and FSDP, against one process."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from atrous import create_model, load
from atrous.training.fsdp import gather, load_optimizer_state, optimizer_state, shard
from atrous.training.stage import make_optimizer
from tests.training.conftest import losses, press_ctrl_c, run_on_two_processes, small, tiny_model

pytest.importorskip("lightning_fabric", reason="needs the extra 'train'")

from atrous.files import read_csv
from atrous.training import train
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
    both, one = (read_csv(folder / "evaluations.csv")[-1] for folder in (ours, theirs))
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


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """The mesh of a process that is alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,), mesh_dim_names=("data_parallel",))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "name", ["unet.padded", "crf_rnn.vgg16", "segnet.basic", "deeplab_v2_msc.resnet101", "refinenet.resnet50"]
)
def test_a_sharded_network_has_the_same_gradients(name: str, mesh: DeviceMesh) -> None:
    """Without a backbone, with one inside another network, with one that runs layer by layer, at several scales."""
    model = create_model(name, num_classes=3, width=0.125)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0
    image = torch.randn(1, 3, 33, 33)
    gradients = []
    for each in (model, shard(copy.deepcopy(model), mesh)):
        outputs = each.training_outputs(image)
        torch.stack([logits.square().mean() * weight for logits, weight in outputs]).sum().backward()
        gradients.append({key: gather(value.grad) for key, value in each.named_parameters()})
    torch.testing.assert_close(*gradients)


def test_gcn_trains_on_two_processes_at_a_small_output_stride(street: str, tmp_path: Path) -> None:
    """Between equal strides its learned deconvolutions get no gradient."""
    recipe = small(street, "model.id=gcn.resnet50", "model.options.output_stride=16", "precision=64-true", "steps=2")
    train(recipe, tmp_path / "alone")
    path = tmp_path / "small.yaml"
    path.write_text(recipe.to_yaml())
    run_on_two_processes(path, tmp_path / "both")
    assert_same_training(tmp_path / "both", tmp_path / "alone", rel=1e-9)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_optimizer_state_is_restored_exactly(name: str) -> None:
    def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for value in model.parameters():
            value.grad = torch.full_like(value, 0.1)
        optimizer.step()

    stage = small("camvid:nowhere", f"optimizer.name={name}", "optimizer.lr=0.01").stages[0]
    model, other = tiny_model(), tiny_model()
    optimizer = make_optimizer(model, stage)
    step(model, optimizer)
    resumed = make_optimizer(other, stage)
    other.load_state_dict(model.state_dict())
    state = copy.deepcopy(optimizer_state(model, optimizer))
    assert set(state["state"]) == {key for key, _ in model.named_parameters()}
    load_optimizer_state(other, resumed, state)
    for each in ((model, optimizer), (other, resumed)):
        step(*each)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
