"""Tables of the names and shapes of other libraries' tensors, as their `state_dict()` lists them; values at random.

`tests/parity` compares the outputs, with the libraries installed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import atrous
from atrous import AtrousError

TABLES = {
    "smp_deeplab_v3_resnet50": "deeplab_v3.resnet50",
    "smp_deeplab_v3_plus_mobilenet_v2": "deeplab_v3_plus.mobilenet_v2",
    "smp_pspnet_resnet50": "pspnet.resnet50",
    "smp_pspnet_mobilenet_v2": "pspnet.mobilenet_v2",
    "transformers_mobilenet_v2": "deeplab_v3.mobilenet_v2",
}


def random_state(name: str) -> dict[str, Tensor]:
    """Draw the tensors of a table of names and shapes."""
    state = {}
    for line in (Path(__file__).parent / "keys" / f"{name}.txt").read_text().splitlines():
        key, *shape = line.split()
        sizes = [int(size) for size in shape]
        counter = key.endswith("num_batches_tracked")
        weight = torch.randn(sizes) / (sizes[1] * sizes[2] ** 2) ** 0.5 if len(sizes) == 4 else torch.rand(sizes) + 0.5
        state[key] = torch.tensor(3) if counter else weight
    return state


@torch.no_grad()
@pytest.mark.parametrize("name", TABLES)
def test_every_tensor_finds_its_place(name: str, tmp_path: Path) -> None:
    state = random_state(name)
    save_file(state, tmp_path / "model.safetensors")
    model = atrous.load(tmp_path / "model.safetensors")
    assert model.card is not None
    assert model.card.model == TABLES[name]
    assert model(torch.rand(1, 3, 65, 49)).isfinite().all()


@pytest.mark.parametrize("name", TABLES)
def test_a_missing_and_an_unknown_tensor_are_named(name: str, tmp_path: Path) -> None:
    state = random_state(name)
    bias = [key for key in state if key.endswith(".bias")][-2]
    del state[bias]
    state["surprise.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(AtrousError, match=r"\.bias' is missing; 'surprise.weight' is unexpected, in a "):
        atrous.load(tmp_path / "model.pth")


@torch.no_grad()
def test_the_classifier_of_transformers_is_not_needed(tmp_path: Path) -> None:
    state = random_state("transformers_mobilenet_v2")
    kept = {key: value for key, value in state.items() if "mobilenet_v2.conv_1x1" not in key}
    assert len(kept) < len(state)
    torch.save(kept, tmp_path / "pytorch_model.bin")
    model = atrous.load(tmp_path / "pytorch_model.bin")
    assert model.card is not None
    assert model.card.arguments["width"] == 0.35
    assert model.card.classes[15] == "person"


@torch.no_grad()
def test_a_sigmoid_becomes_two_classes(tmp_path: Path) -> None:
    torch.save(random_state("smp_pspnet_mobilenet_v2"), tmp_path / "model.pth")
    model = atrous.load(tmp_path / "model.pth")
    assert model.num_classes == 2
    assert not model(torch.rand(1, 3, 32, 32))[:, 0].any()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("decoder.aspp.", "decoder.fpn.", "keys such as 'decoder.fpn.0.convs.0.0.weight', is another network of"),
        (
            "encoder.features.",
            "encoder.blocks.",
            "keys such as 'encoder.blocks.0.0.weight', is not supported; expected",
        ),
    ],
)
def test_another_decoder_or_encoder_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    state = random_state("smp_deeplab_v3_plus_mobilenet_v2")
    torch.save({key.replace(old, new): value for key, value in state.items()}, tmp_path / "model.pth")
    with pytest.raises(AtrousError, match=message):
        atrous.load(tmp_path / "model.pth")


def test_blocks_of_no_width_are_refused(tmp_path: Path) -> None:
    state = random_state("transformers_mobilenet_v2")
    state["mobilenet_v2.layer.3.reduce_1x1.convolution.weight"] = torch.zeros(17, 96, 1, 1)
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(AtrousError, match="no width multiplier of MobileNetV2 gives blocks of 8, 8, 8, 16, 17, "):
        atrous.load(tmp_path / "model.pth")
