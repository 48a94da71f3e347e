"""State dicts of libraries that cannot be installed here: their networks, written independently, agree with ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import atrous
from atrous import AtrousError
from tests.weights.importers.library_networks import (
    CSAILDecoder,
    CSAILEncoder,
    DeepLabPytorch,
    EncoderDecoder,
    MMASPPHead,
    MMFCNHead,
    MMPSPHead,
    MMSeparableASPPHead,
    PlainResNet,
    ResNetV1c,
    VainFNetwork,
    randomize,
    upsample,
)

CLASSES = 5


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def save(network: nn.Module, path: Path) -> Path:
    torch.save(network.state_dict(), path)
    return path


MMSEG = {
    "fcn": (lambda: MMFCNHead(2048, 512, CLASSES, 2), "fcn"),
    "fcn of one convolution": (lambda: MMFCNHead(2048, 512, CLASSES, 1), "fcn"),
    "pspnet": (lambda: MMPSPHead(CLASSES), "pspnet"),
    "deeplab_v3": (lambda: MMASPPHead(CLASSES), "deeplab_v3"),
    "deeplab_v3_plus": (lambda: MMSeparableASPPHead(CLASSES), "deeplab_v3_plus"),
}


@torch.no_grad()
@pytest.mark.parametrize("name", MMSEG)
def test_mmsegmentation(name: str, tmp_path: Path) -> None:
    head, architecture = MMSEG[name]
    backbone = PlainResNet(50, 8) if name == "pspnet" else ResNetV1c(50)
    theirs = randomize(EncoderDecoder(backbone, head(), CLASSES))
    torch.save({"meta": {"epoch": 3}, "state_dict": theirs.state_dict()}, tmp_path / "iter_80000.pth")
    model = atrous.load(tmp_path / "iter_80000.pth")
    assert model.card is not None
    assert model.card.model == f"{architecture}.resnet50"
    image = torch.randn(1, 3, 97, 66)
    for (ours, _), expected in zip(model.training_outputs(image), theirs(image), strict=True):
        assert_equal(ours, expected)


@torch.no_grad()
@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize(
    ("backbone", "plus", "separable"),
    [("resnet50", True, False), ("mobilenet", True, True), ("mobilenet", False, False), ("mobilenet", False, True)],
)
def test_vainf(backbone: str, plus: bool, separable: bool, stride: int, tmp_path: Path) -> None:
    theirs = randomize(VainFNetwork(backbone, CLASSES, stride, plus=plus, separable=separable))
    checkpoint = {"cur_itrs": 9, "model_state": theirs.state_dict(), "best_score": np.float64(0.5)}
    torch.save(checkpoint, tmp_path / "best.pth")
    model = atrous.load(tmp_path / "best.pth")
    assert model.output_stride == 16
    model.set_output_stride(stride)
    image = torch.randn(1, 3, 97, 66)
    assert_equal(model(image), theirs(image))


@torch.no_grad()
def test_vainf_mobilenet_in_the_network_of_the_paper_differs_at_the_borders(tmp_path: Path) -> None:
    theirs = randomize(VainFNetwork("mobilenet", CLASSES, 16, plus=True))
    path = save(theirs, tmp_path / "best.pth")
    options = {"backbone_options": {"padding": "symmetric"}}
    model = atrous.load(path, arguments=options)
    assert model.card is not None
    assert model.card.arguments["backbone_options"] == {"padding": "symmetric", "norm_eps": 1e-5}
    image = torch.randn(1, 3, 97, 66)
    difference = (model(image) - theirs(image)).abs().max() / theirs(image).abs().max()
    assert difference > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "base.", "scale."])
def test_deeplab_pytorch_at_one_scale(prefix: str, tmp_path: Path) -> None:
    theirs = randomize(DeepLabPytorch(CLASSES))
    old = {"shortcut": "proj", "aspp.c": "aspp.stages.c"} if prefix == "scale." else {}
    state = {}
    for key, value in theirs.state_dict().items():
        for new, name in old.items():
            key = key.replace(new, name)
        state[prefix + key] = value
    torch.save(state, tmp_path / "deeplabv2.pth")
    model = atrous.load(tmp_path / "deeplabv2.pth")
    assert model.card is not None
    assert model.card.model == ("deeplab_v2_msc.resnet101" if prefix else "deeplab_v2.resnet101")
    assert model.card.preprocessing.channel_order == "BGR"
    image = torch.randn(1, 3, 65, 97)
    single = atrous.create_model("deeplab_v2.resnet101", num_classes=CLASSES).eval()
    single.load_state_dict(model.state_dict())
    assert_equal(single.scores(image), theirs(image))


@torch.no_grad()
@pytest.mark.parametrize(("kind", "deepsup"), [("ppm", True), ("c1", True), ("c1", False)])
@pytest.mark.parametrize("given", ["encoder", "decoder", "both"])
def test_csail(kind: str, deepsup: bool, given: str, tmp_path: Path) -> None:
    encoder = randomize(CSAILEncoder(50))
    decoder = randomize(CSAILDecoder(kind, CLASSES, deepsup=deepsup))
    if given == "both":
        both = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
        path = save(both, tmp_path / "segmentation_module.pth")
    else:
        paths = {part: tmp_path / f"{part}_epoch_20.pth" for part in ("encoder", "decoder")}
        save(encoder, paths["encoder"])
        save(decoder, paths["decoder"])
        path = paths[given]
    model = atrous.load(path)
    assert model.card is not None
    assert model.card.model == {"ppm": "pspnet.resnet50", "c1": "fcn.resnet50"}[kind]
    image = torch.randn(1, 3, 97, 66)
    expected = [upsample(scores, image.shape[2:]) for scores in decoder(encoder(image))]
    for (ours, _), theirs in zip(model.training_outputs(image), expected, strict=True):
        assert_equal(ours, theirs)


def test_half_of_a_csail_network_is_named(tmp_path: Path) -> None:
    path = save(CSAILEncoder(50), tmp_path / "encoder_epoch_20.pth")
    with pytest.raises(AtrousError, match=r"the encoder of .* expected 'decoder_epoch_20.pth' in the same folder"):
        atrous.load(path)
    path = save(CSAILEncoder(50), tmp_path / "weights.pth")
    with pytest.raises(AtrousError, match=r"expected the decoder, named like this file with 'decoder' in it"):
        atrous.load(path)
    save(PlainResNet(50, 8), tmp_path / "decoder_epoch_20.pth")
    with pytest.raises(AtrousError, match=r"decoder_epoch_20.pth: expected a PSPNet or FCN decoder"):
        atrous.load(tmp_path / "encoder_epoch_20.pth")


def test_classes_are_named_by_their_number(tmp_path: Path) -> None:
    network = EncoderDecoder(ResNetV1c(50), MMPSPHead(19), 19)
    card = atrous.load(save(network, tmp_path / "a.pth")).card
    assert card is not None
    assert card.classes[:2] == ("road", "sidewalk")
    assert card.license == "unknown"


def test_safetensors_and_wrapped_prefixes(tmp_path: Path) -> None:
    network = randomize(EncoderDecoder(ResNetV1c(50), MMPSPHead(CLASSES), CLASSES))
    tensors = {f"module.{key}": value for key, value in network.state_dict().items()}
    save_file(tensors, tmp_path / "a.safetensors")
    image = torch.randn(1, 3, 33, 33)
    with torch.no_grad():
        assert_equal(atrous.load(tmp_path / "a.safetensors")(image), network(image)[0])


def test_files_without_counters_of_batches_load(tmp_path: Path) -> None:
    network = randomize(EncoderDecoder(ResNetV1c(50), MMPSPHead(CLASSES), CLASSES))
    state = {key: value for key, value in network.state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "old.pth")
    assert atrous.load(tmp_path / "old.pth").num_classes == CLASSES


def _rename(state: dict[str, Tensor], old: str, new: str) -> None:
    for key in list(state):
        if key.startswith(old):
            state[new + key.removeprefix(old)] = state.pop(key)


CHANGES = {
    "missing": (lambda s: s.pop("decode_head.bottleneck.bn.bias"), "'classifier.0.1.bias' is missing"),
    "unknown": (lambda s: s.update({"neck.0.weight": torch.zeros(1)}), "'neck.0.weight' is unexpected"),
    "shape": (
        lambda s: s.update({"decode_head.conv_seg.weight": torch.zeros(5, 256, 1, 1)}),
        r"'classifier.2.weight' has shape \(5, 256, 1, 1\), expected \(5, 512, 1, 1\)",
    ),
    "head": (
        lambda s: _rename(s, "decode_head.psp_modules.", "decode_head.lateral_convs."),
        "is not known; expected FCN",
    ),
    "backbone": (lambda s: _rename(s, "backbone.layer", "backbone.stage"), "is not supported; expected ResNet"),
    "depth": (lambda s: [s.pop(key) for key in list(s) if "layer3.5" in key], "stages have 3, 4, 5, 3 units"),
    "basic": (lambda s: [s.pop(key) for key in list(s) if "conv3" in key], "the backbone is ResNet-34; expected"),
    "classifier": (lambda s: s.pop("decode_head.conv_seg.weight"), "the classifier is missing"),
    "bottleneck": (
        lambda s: s.pop("decode_head.bottleneck.conv.weight"),
        "'decode_head.bottleneck.conv.weight', a conv",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_differs_is_named(name: str, tmp_path: Path) -> None:
    change, message = CHANGES[name]
    state = EncoderDecoder(ResNetV1c(50), MMPSPHead(CLASSES), CLASSES).state_dict()
    change(state)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(AtrousError, match=message):
        atrous.load(tmp_path / "a.pth")


def test_arguments_that_a_file_does_not_tell(tmp_path: Path) -> None:
    path = save(randomize(EncoderDecoder(ResNetV1c(50), MMASPPHead(CLASSES), CLASSES)), tmp_path / "a.pth")
    model = atrous.load(path, arguments={"output_stride": 16, "atrous_rates": [12, 24, 36], "align_corners": True})
    assert model.output_stride == 16
    assert model.align_corners
    assert model.card is not None
    assert model.card.align_corners
    assert model.aspp.rates == (12, 24, 36)
    assert model.card.arguments["backbone_options"] == {"stem": "v1c"}
    with pytest.raises(AtrousError, match="output_strid"):
        atrous.load(path, arguments={"output_strid": 16})
    with pytest.raises(AtrousError, match="has shape"):
        atrous.load(path, arguments={"channels": 128})
