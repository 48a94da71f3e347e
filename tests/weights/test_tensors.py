from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import atrous
from atrous import AtrousError
from atrous.card import Card
from atrous.weights.tensors import load_tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("classifier.bias"), "'classifier.bias' is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "'extra' is unexpected"),
        (
            lambda t: t.update({"classifier.bias": torch.zeros(3)}),
            r"'classifier.bias' has shape \(3,\), expected \(21,\)",
        ),
        (lambda t: t["classifier.bias"].fill_(float("nan")), "NaN or infinite"),
    ],
)
def test_tensors_that_do_not_fit_are_named(saved: Path, card: Card, change, message: str) -> None:
    tensors = load_file(saved)
    change(tensors)
    save_file(tensors, saved, {"atrous": card.model_dump_json()})
    with pytest.raises(AtrousError, match=message):
        atrous.load(saved)


def test_all_that_does_not_fit_is_reported_at_once(saved: Path, card: Card) -> None:
    tensors = load_file(saved)
    for key in list(tensors)[:5]:
        tensors[f"renamed.{key}"] = tensors.pop(key)
    tensors["classifier.bias"] = torch.zeros(3)
    save_file(tensors, saved, {"atrous": card.model_dump_json()})
    with pytest.raises(AtrousError) as raised:
        atrous.load(saved)
    message = str(raised.value)
    assert message.count("'renamed.") == 3
    assert message.count("and 2 more keys are missing") == message.count("and 2 more keys are unexpected") == 1
    assert "'classifier.bias' has shape (3,), expected (21,), in a DeepLabV3 on mobilenet_v2 with 21 cl" in message
    assert "\n" not in message


def test_names_of_tensors_that_are_no_text_are_escaped_and_cut() -> None:
    model = nn.Linear(2, 1)
    tensors = {**model.state_dict(), "a\nerror: \x1b[31m" + "b" * 10_000: torch.zeros(1)}
    with pytest.raises(AtrousError, match=r"'a\\nerror: \\x1b\[31mb+' is unexpected") as error:
        load_tensors(model, tensors, "a.pb")
    assert len(str(error.value)) < 1000
