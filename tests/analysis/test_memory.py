"""Memory of training, estimated without computing anything."""

from __future__ import annotations

import torch

from atrous import create_model
from atrous.analysis.memory import bytes_text, saved_bytes


def test_saved_bytes_grow_with_the_image() -> None:
    with torch.device("meta"):
        model = create_model("unet.padded", width=0.125)
    small, large = (saved_bytes(model, size, size) for size in (32, 64))
    assert 3.5 < large / small < 4.5


def test_saved_bytes_are_those_that_autograd_saves() -> None:
    model = create_model("unet.padded", width=0.125)
    saved: dict[int, int] = {}
    parameters = {value.untyped_storage().data_ptr() for value in model.parameters()}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.train().training_outputs(torch.zeros(1, 3, 64, 64))
    with torch.device("meta"):
        estimate = saved_bytes(create_model("unet.padded", width=0.125), 64, 64)
    assert 0.8 < estimate / sum(saved.values()) < 1.25


def test_units() -> None:
    assert bytes_text(1_500_000_000) == "1.5 GB"
    assert bytes_text(2_000_000) == "2 MB"
