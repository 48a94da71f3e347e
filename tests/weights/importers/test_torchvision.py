"""torchvision's state dicts: names and shapes from its documentation, values at random."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import atrous
from atrous import AtrousError
from tests.contract.trained import imitate_training


def torchvision_state(depth: int, auxiliary: bool = True, classes: int = 21, fcn: bool = False) -> dict[str, Tensor]:
    """As `torchvision.models.segmentation.deeplabv3_resnet50/101().state_dict()`, with random values; or `fcn_...`."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}

    def conv(name: str, out: int, into: int, kernel: int) -> None:
        state[f"{name}.weight"] = (
            torch.randn(out, into, kernel, kernel, generator=generator) / (into * kernel**2) ** 0.5
        )

    def norm(name: str, channels: int) -> None:
        state[f"{name}.weight"] = torch.rand(channels, generator=generator) + 0.5
        state[f"{name}.bias"] = torch.randn(channels, generator=generator) * 0.1
        state[f"{name}.running_mean"] = torch.randn(channels, generator=generator) * 0.1
        state[f"{name}.running_var"] = torch.rand(channels, generator=generator) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def head(name: str, into: int) -> None:
        conv(f"{name}.0", into // 4, into, 3)
        norm(f"{name}.1", into // 4)
        conv(f"{name}.4", classes, into // 4, 1)
        state[f"{name}.4.bias"] = torch.randn(classes, generator=generator)

    def deeplab_head() -> None:
        conv("classifier.0.convs.0.0", 256, 2048, 1)
        norm("classifier.0.convs.0.1", 256)
        for branch in (1, 2, 3):
            conv(f"classifier.0.convs.{branch}.0", 256, 2048, 3)
            norm(f"classifier.0.convs.{branch}.1", 256)
        conv("classifier.0.convs.4.1", 256, 2048, 1)
        norm("classifier.0.convs.4.2", 256)
        conv("classifier.0.project.0", 256, 1280, 1)
        norm("classifier.0.project.1", 256)
        conv("classifier.1", 256, 256, 3)
        norm("classifier.2", 256)
        conv("classifier.4", classes, 256, 1)
        state["classifier.4.bias"] = torch.randn(classes, generator=generator)

    conv("backbone.conv1", 64, 3, 7)
    norm("backbone.bn1", 64)
    into = 64
    for stage, units in enumerate({50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[depth]):
        mid = 64 * 2**stage
        for unit in range(units):
            name = f"backbone.layer{stage + 1}.{unit}"
            for index, (out, of, kernel) in enumerate(((mid, into, 1), (mid, mid, 3), (4 * mid, mid, 1)), start=1):
                conv(f"{name}.conv{index}", out, of, kernel)
                norm(f"{name}.bn{index}", out)
            if unit == 0:
                conv(f"{name}.downsample.0", 4 * mid, into, 1)
                norm(f"{name}.downsample.1", 4 * mid)
            into = 4 * mid
    if fcn:
        head("classifier", 2048)
    else:
        deeplab_head()
    if auxiliary:
        head("aux_classifier", 1024)
    return state


def torchvision_forward(state: dict[str, Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
    """What torchvision computes, written down from its documentation: dilations, taps, resizes, both outputs."""

    def conv(x: Tensor, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, padding, dilation)

    def norm(x: Tensor, name: str) -> Tensor:
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{key}"] for key in keys), eps=1e-5)

    def unit(x: Tensor, name: str, stride: int, dilation: int) -> Tensor:
        y = F.relu(norm(conv(x, f"{name}.conv1"), f"{name}.bn1"))
        y = F.relu(norm(conv(y, f"{name}.conv2", stride, dilation), f"{name}.bn2"))
        y = norm(conv(y, f"{name}.conv3"), f"{name}.bn3")
        if f"{name}.downsample.0.weight" in state:
            x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return F.relu(x + y)

    x = F.max_pool2d(F.relu(norm(conv(image, "backbone.conv1", 2), "backbone.bn1")), 3, 2, 1)
    maps = []
    for stage, (stride, first, later) in enumerate(((1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)), start=1):
        units = len({key.split(".")[2] for key in state if key.startswith(f"backbone.layer{stage}.")})
        for index in range(units):
            own = (stride, first) if index == 0 else (1, later)
            x = unit(x, f"backbone.layer{stage}.{index}", *own)
        maps.append(x)

    def small_head(x: Tensor, name: str) -> Tensor:
        scores = conv(F.relu(norm(conv(x, f"{name}.0"), f"{name}.1")), f"{name}.4")
        return F.interpolate(scores, size=image.shape[-2:], mode="bilinear", align_corners=False)

    z = small_head(maps[2], "aux_classifier")
    if "classifier.0.weight" in state:
        return small_head(x, "classifier"), z
    head = "classifier.0.convs"
    branches = [F.relu(norm(conv(x, f"{head}.0.0"), f"{head}.0.1"))]
    for index, rate in ((1, 12), (2, 24), (3, 36)):
        branches.append(F.relu(norm(conv(x, f"{head}.{index}.0", 1, rate), f"{head}.{index}.1")))
    pooled = F.relu(norm(conv(F.adaptive_avg_pool2d(x, 1), f"{head}.4.1"), f"{head}.4.2"))
    branches.append(F.interpolate(pooled, size=x.shape[-2:], mode="bilinear", align_corners=False))
    y = F.relu(norm(conv(torch.cat(branches, 1), "classifier.0.project.0"), "classifier.0.project.1"))
    y = conv(F.relu(norm(conv(y, "classifier.1"), "classifier.2")), "classifier.4")
    return F.interpolate(y, size=image.shape[-2:], mode="bilinear", align_corners=False), z


@torch.no_grad()
@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.parametrize("fcn", [False, True])
def test_every_key_is_used_and_the_outputs_agree(depth: int, fcn: bool, tmp_path: Path) -> None:
    state = torchvision_state(depth, fcn=fcn)
    torch.save(state, tmp_path / "a.pth")
    model = atrous.load(tmp_path / "a.pth")
    assert len(model.state_dict()) == len(state)
    image = torch.randn(1, 3, 97, 65)
    for (ours, _), theirs in zip(model.training_outputs(image), torchvision_forward(state, image), strict=True):
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.std()


@torch.no_grad()
def test_logits_equal_those_of_torchvision_itself(tmp_path: Path) -> None:
    segmentation = pytest.importorskip("torchvision.models.segmentation", reason="torchvision is not installed")
    theirs = segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, aux_loss=True).eval()
    theirs.load_state_dict(torchvision_state(50))
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    image = torch.randn(1, 3, 97, 65)
    torch.testing.assert_close(atrous.load(tmp_path / "a.pth")(image), theirs(image)["out"], rtol=1e-4, atol=1e-4)


def test_without_auxiliary_head_and_with_other_classes(tmp_path: Path) -> None:
    torch.save(torchvision_state(50, auxiliary=False, classes=3), tmp_path / "a.pth")
    card = atrous.load(tmp_path / "a.pth").card
    assert card.arguments["auxiliary"] is False
    assert card.classes == ("class 0", "class 1", "class 2")
    assert not card.measured


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update({"classifier.9.weight": torch.zeros(1)}), "'classifier.9.weight' is unexpected"),
        (lambda s: s.pop("backbone.layer4.2.bn3.bias"), "'backbone.layer4.2.bn3.bias' is missing"),
        (lambda s: s.pop("classifier.0.convs.0.0.weight"), "'aspp.branches.0.0.weight' is missing"),
        (
            lambda s: [s.pop(k) for k in list(s) if "layer" in k],
            "its backbone is not known; expected deeplabv3_resnet50",
        ),
        (lambda s: [s.pop(k) for k in list(s) if "layer3.5" in k], "has 5 units"),
    ],
)
def test_unknown_content_is_named(change, message: str, tmp_path: Path) -> None:
    state = torchvision_state(50)
    change(state)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(AtrousError, match=message):
        atrous.load(tmp_path / "a.pth")


class Evil:
    def __reduce__(self):
        return print, ("this must never be printed",)


@pytest.mark.parametrize("contents", [b"", b"not a checkpoint", None])
def test_damaged_files_and_files_with_code_are_refused(contents: bytes | None, tmp_path: Path, capsys) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps({"a": Evil()}) if contents is None else contents)
    with pytest.raises(AtrousError):
        atrous.load(path)
    assert "never" not in capsys.readouterr().out


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(torchvision_state(50), path)
    path.write_bytes(path.read_bytes()[:1_000_000])
    with pytest.raises(AtrousError):
        atrous.load(path)


def test_other_objects_are_no_state_dict(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "a.pth")
    with pytest.raises(AtrousError, match="expected a state dict"):
        atrous.load(tmp_path / "a.pth")


MOBILE_KEYS = {
    "lraspp": (
        (r"^project\.", "classifier.cbr."),
        (r"^gate\.conv\.", "classifier.scale.1."),
        (r"^(low|high)_classifier\.", r"classifier.\1_classifier."),
    ),
    "deeplab_v3": (
        (r"^classifier\.", "classifier.4."),
        (r"^aspp\.branches\.(\d)\.", r"classifier.0.convs.\1."),
        (r"^aspp\.pooling\.conv\.([01])\.", lambda match: f"classifier.0.convs.4.{int(match[1]) + 1}."),
        (r"^aspp\.project\.", "classifier.0.project."),
        (r"^refine\.([01])\.", lambda match: f"classifier.{int(match[1]) + 1}."),
        (r"^auxiliary\.0\.([01])\.", r"aux_classifier.\1."),
        (r"^auxiliary\.2\.", "aux_classifier.4."),
    ),
}
"""Our keys of the heads, and torchvision's as `state_dict()` lists them."""

MOBILE = {"output_stride": 16, "backbone_options": {"layout": "torchvision"}}
MOBILE_DEEPLAB = {"atrous_rates": (12, 24, 36), "auxiliary": True, "auxiliary_map": 1, "refine": True}


def mobile_state(architecture: str, network: torch.nn.Module) -> dict[str, Tensor]:
    """The state dict of one of our networks on MobileNetV3, by torchvision's keys."""
    state = {}
    for key, value in network.state_dict().items():
        renamed = re.sub(r"^backbone\.features\.", "backbone.", key)
        for ours, theirs in MOBILE_KEYS[architecture]:
            if re.match(ours, key):
                renamed = re.sub(ours, theirs, key)
        state[renamed] = value
    return state


@torch.no_grad()
@pytest.mark.parametrize(("architecture", "options"), [("lraspp", {}), ("deeplab_v3", MOBILE_DEEPLAB)])
def test_networks_on_mobilenet_v3(architecture: str, options: dict, tmp_path: Path) -> None:
    network = atrous.create_model(f"{architecture}.mobilenet_v3_large", **MOBILE, **options)
    imitate_training(network)
    torch.save(mobile_state(architecture, network), tmp_path / "mobile.pth")
    model = atrous.load(tmp_path / "mobile.pth")
    image = torch.randn(1, 3, 65, 97)
    assert torch.equal(model(image), network.eval()(image))
    assert model.card is not None
    assert model.card.model == f"{architecture}.mobilenet_v3_large"
    assert not model.card.measured, "published figures are those of the released files"
