"""timm, live: its classifiers and ours compute the same from the same random weights and batch statistics, and its
networks are held to the contract of our backbones."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import atrous
from atrous import AtrousError
from atrous.backbones import Backbone, create_backbone
from atrous.export import export_model
from atrous.layers.meta import meta_device
from atrous.layers.norm import freeze_batch_norm
from atrous.models import create_model
from atrous.weights import load, save
from atrous.weights.pretrained import load_pretrained_backbone
from tests.contract.trained import imitate_training
from tests.inference.networks import letter_card
from tests.offline import skip_without

skip_without("timm")

from atrous.backbones.timm_library import import_timm  # noqa: E402

timm = import_timm()

PAIRS = {  # timm's name; ours, the options, and a network on it
    "xception41": ("xception41", {}, "deeplab_v3_plus.xception41"),
    "xception65": ("xception65", {}, "deeplab_v3_plus.xception65"),
    "xception71": ("xception71", {}, "deeplab_v3_plus.xception71"),
    "resnet50s": ("resnet50", {"stem": "deep"}, "pspnet.resnet50"),
    "resnet101s": ("resnet101", {"stem": "deep"}, "pspnet.resnet101"),
    "resnet152s": ("resnet152", {"stem": "deep"}, "pspnet.resnet152"),
}
EVERY_PAIR = pytest.mark.parametrize("name", PAIRS)


def random_classifier(name: str) -> nn.Module:
    torch.manual_seed(0)
    classifier = timm.create_model(name)
    imitate_training(classifier)
    return classifier.eval()


def relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    assert theirs.std() > 1e-3
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@EVERY_PAIR
@torch.no_grad()
def test_logits_of_the_classifier(name: str, record_property: pytest.RecordProperty) -> None:
    theirs = random_classifier(name)
    backbone, options, _ = PAIRS[name]
    ours = create_backbone(backbone, num_classes=1000, **options).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 3, 97, 129)
    difference = relative_difference(ours.classify(image), theirs(image))
    record_property("relative_difference", difference)
    assert difference <= 1e-4


@EVERY_PAIR
@torch.no_grad()
def test_features_of_a_segmentation_network_from_a_file(name: str, tmp_path: Path) -> None:
    """The file as timm would release it loads as `backbone_weights`, at output stride 32 and so at every other."""
    theirs = random_classifier(name)
    torch.save(theirs.state_dict(), tmp_path / "released.pth")
    model = create_model(PAIRS[name][2]).eval()
    load_pretrained_backbone(model, str(tmp_path / "released.pth"))
    model.backbone.set_output_stride(32)
    image = torch.randn(1, 3, 97, 129)
    assert relative_difference(model.backbone(image)[-1], theirs.forward_features(image)) <= 1e-4


@EVERY_PAIR
def test_mean_std_and_license_are_those_that_timm_gives(name: str) -> None:
    backbone, options, _ = PAIRS[name]
    entry = create_backbone(backbone, width=0.125, **options).pretrained["imagenet"]
    tag = "gluon_in1k" if name.startswith("resnet") else "tf_in1k"
    config = timm.get_pretrained_cfg(f"{name}.{tag}")
    assert entry.mean == pytest.approx([255 * value for value in config.mean])
    assert entry.std == pytest.approx([255 * value for value in config.std])
    assert entry.license.lower() == config.license
    assert config.url in ("", entry.url)


FAMILIES = {
    "resnet18": "ResNet",
    "resnet26d": "ResNet-D: pooling in the shortcuts",
    "regnety_002": "RegNet: squeeze-and-excite",
    "tf_efficientnet_lite0": "EfficientNet: TensorFlow's padding",
    "efficientnet_b0": "EfficientNet: squeeze-and-excite",
    "mobilenetv3_small_050": "MobileNetV3",
    "mobilenetv4_conv_small_050": "MobileNetV4",
    "convnext_atto": "ConvNeXt: patches without padding",
    "convnextv2_atto": "ConvNeXt V2: global response normalization",
    "ecaresnet26t": "ECA-Net: gates along the channels",
    "densenet121": "DenseNet: pooling without padding",
}
EVERY_FAMILY = pytest.mark.parametrize("name", FAMILIES)
ARCHITECTURES = ("deeplab_v3", "deeplab_v3_plus", "pspnet", "fcn", "unet", "refinenet", "gcn", "lraspp")


@functools.cache
def _built(name: str) -> Backbone:
    torch.manual_seed(0)
    backbone = create_backbone(f"timm:{name}")
    imitate_training(backbone)
    return backbone.eval()


def trained_like(name: str) -> Backbone:
    return copy.deepcopy(_built(name))


@EVERY_FAMILY
@torch.no_grad()
def test_dense_features_sampled_equal_the_strided_ones(name: str) -> None:
    """Atrous consistency, as tests/contract/test_backbones.py holds our backbones to it."""
    backbone = trained_like(name)
    image = torch.randn(2, 3, 161, 129)  # 32 k + 1
    strided = backbone(image)[-1]
    assert strided.std() > 1e-3
    for stride in (16, 8):
        backbone.set_output_stride(stride)
        step = 32 // stride
        dense = backbone(image)[-1]
        assert (dense[..., ::step, ::step] - strided).abs().max() <= 1e-4 * strided.std()
        assert not torch.equal(dense[..., 1::step, 1::step], strided[..., :-1, :-1])
    backbone.set_output_stride(32)
    assert torch.equal(backbone(image)[-1], strided)


@EVERY_FAMILY
@pytest.mark.parametrize("stride", [32, 16, 8])
@torch.no_grad()
def test_channels_and_strides_match_the_maps(name: str, stride: int) -> None:
    """Any size, odd ones too: sizes are rounded up."""
    backbone = trained_like(name)
    assert backbone.native_strides == (4, 8, 16, 32)
    backbone.set_output_stride(stride)
    for height, width in ((129, 97), (70, 45), (33, 64), (1, 5)):
        maps = backbone(torch.randn(1, 3, height, width))
        expected = [
            (c, -(-height // s), -(-width // s)) for c, s in zip(backbone.channels, backbone.strides, strict=True)
        ]
        assert [tuple(each.shape[1:]) for each in maps] == expected


@EVERY_FAMILY
@torch.no_grad()
def test_every_stride_that_is_offered_works(name: str) -> None:
    backbone = trained_like(name)
    for stride in backbone.possible_output_strides():
        backbone.set_output_stride(stride)
        assert backbone(torch.randn(1, 3, 33, 33))[-1].shape[-2:] == (32 // stride + 1,) * 2
    with pytest.raises(AtrousError, match="output_stride 3: this network runs at"):
        backbone.set_output_stride(3)


@EVERY_FAMILY
@torch.no_grad()
def test_features_are_those_of_timm(name: str, record_property: pytest.RecordProperty) -> None:
    """From timm's state dict, classifier included, at sizes that 32 divides; timm drops the last pixels of others."""
    backbone = trained_like(name)
    theirs = timm.create_model(name).eval()
    imitate_training(theirs)
    result = backbone.load_state_dict(theirs.state_dict())
    assert not result.missing_keys
    assert not result.unexpected_keys
    image = torch.randn(1, 3, 96, 128)
    maps = theirs.forward_intermediates(image, intermediates_only=True)[-4:]
    difference = max(map(relative_difference, backbone(image), maps))
    record_property("relative_difference", difference)
    assert difference <= 1e-5


@torch.no_grad()
def test_consistency_does_not_depend_on_rounding() -> None:
    """With random weights this network multiplies the rounding errors of float32 by a million."""
    backbone = trained_like("efficientnetv2_rw_t").double()
    image = torch.randn(1, 3, 161, 129, dtype=torch.float64)
    strided = backbone(image)[-1]
    backbone.set_output_stride(8)
    assert (backbone(image)[-1][..., ::4, ::4] - strided).abs().max() <= 1e-6 * strided.std()


@EVERY_FAMILY
def test_trains_at_batch_1_and_every_parameter_gets_a_gradient(name: str) -> None:
    backbone = trained_like(name).train()
    sum((each**2).mean() for each in backbone(torch.randn(1, 3, 30, 25))).backward()
    assert not [key for key, parameter in backbone.named_parameters() if parameter.grad is None]
    freeze_batch_norm(backbone)
    assert not [key for key, layer in backbone.named_modules() if isinstance(layer, nn.BatchNorm2d) and layer.training]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv4_conv_small_050", "convnext_atto"])
def test_networks_on_backbones_of_timm(architecture: str, name: str) -> None:
    """Trained at batch 1, and run at other output strides and back."""
    torch.manual_seed(0)
    model = atrous.create_model(architecture, backbone=f"timm:{name}", num_classes=5)
    outputs = model.training_outputs(torch.randn(1, 3, 70, 45))
    sum((logits**2).mean() * weight for logits, weight in outputs).backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]
    model.eval()
    image = torch.randn(1, 3, 97, 65)
    native = model.output_stride
    with torch.no_grad():
        before = model(image)
        for stride in (32, 16, 8):
            model.set_output_stride(stride)
            assert model(image).shape == (1, 5, 97, 65)
        model.set_output_stride(native)
        assert torch.equal(model(image), before)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "regnety_002", "efficientnet_b0"),
        *("mobilenetv3_small_050", "mobilenetv4_conv_small_050", "convnext_atto"),
    ],
)
def test_exports(name: str, tmp_path: Path) -> None:
    skip_without("onnxscript")
    torch.manual_seed(0)
    model = atrous.create_model("deeplab_v3_plus", backbone=f"timm:{name}", num_classes=5)
    imitate_training(model)
    model.eval().card = letter_card(model.align_corners)
    assert export_model(model, tmp_path / "a.onnx").largest_difference < 1e-4


def test_saved_and_loaded(tmp_path: Path) -> None:
    """The file needs timm, but nothing from a server."""
    model = atrous.create_model("deeplab_v3_plus", backbone="timm:mobilenetv3_small_050", num_classes=5).eval()
    imitate_training(model)
    card = letter_card(model.align_corners)
    model.card = card.model_copy(
        update={"model": "deeplab_v3_plus", "arguments": {"backbone": "timm:mobilenetv3_small_050"}}
    )
    again = load(save(model, tmp_path / "a.safetensors"))
    image = torch.randn(1, 3, 65, 65)
    with torch.no_grad():
        assert torch.equal(again(image), model(image))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnetblur50", r"layer maxpool\.1 \(BlurPool2d\)"),
        ("resnest14d", r"SplitAttn"),
        ("mobilenetv4_hybrid_medium", r"MultiQueryAttention2d"),
        ("mobilevit_xxs", r"MobileVitBlock"),
        ("efficientvit_b0", r"LiteMLA"),
        ("swin_tiny_patch4_window7_224", r"images of certain sizes only"),
        ("vit_tiny_patch16_224", r"maps at the strides 16\."),
        ("inception_v3", r"no padding that keeps the size"),
        ("inception_next_atto", r"differs between rows and columns"),
        ("res2net50_14w_8s", r"averages overlapping windows"),
        ("vovnet39a", r"no padding that keeps the size"),
    ],
)
def test_what_cannot_be_dilated_is_refused_by_name(name: str, reason: str) -> None:
    """At once, when the network is built, and in one line."""
    with (
        pytest.raises(AtrousError, match=rf"^timm:{name} cannot be a backbone here, because .*{reason}"),
        meta_device(),
    ):
        create_backbone(f"timm:{name}")


@torch.no_grad()
def test_hrnet_runs_at_its_own_stride() -> None:
    backbone = create_backbone("timm:hrnet_w18_small").eval()
    assert backbone.possible_output_strides() == [32]
    for height, width in ((129, 97), (64, 96), (5, 1)):
        maps = backbone(torch.randn(1, 3, height, width))
        assert [tuple(each.shape[2:]) for each in maps] == [(-(-height // s), -(-width // s)) for s in (4, 8, 16, 32)]
    with pytest.raises(AtrousError, match="output_stride 16: this network runs at 32"):
        atrous.create_model("deeplab_v3_plus", backbone="timm:hrnet_w18_small")
    model = atrous.create_model("unet", backbone="timm:hrnet_w18_small", num_classes=5)
    assert model(torch.randn(2, 3, 70, 45)).shape == (2, 5, 70, 45)


def test_names_and_options_are_checked() -> None:
    with pytest.raises(AtrousError, match=r"timm has no network 'convnext_tiy'\. Did you mean 'convnext_tiny'"):
        create_backbone("timm:convnext_tiy")
    with pytest.raises(AtrousError, match=r"timm has no weights 'a1_in2k' of resnet18\. Did you mean 'a1_in1k'"):
        create_backbone("timm:resnet18.a1_in2k")
    with pytest.raises(AtrousError, match=r"takes no argument 'drop_pat_rate'\. Did you mean 'drop_path_rate'"):
        create_backbone("timm:resnet18", drop_pat_rate=0.1)
    with pytest.raises(AtrousError, match=r"timm:resnet18 cannot be built with .*'nonsense'"):
        create_backbone("timm:resnet18", timm_options={"nonsense": 1})
    with pytest.raises(AtrousError, match=r"width 0\.5: networks of timm have the width of their name"):
        atrous.create_model("fcn", backbone="timm:resnet18", width=0.5)


def test_weights_of_timm_are_found_by_name_and_by_tag() -> None:
    entry = create_backbone("timm:convnext_tiny.fb_in1k").pretrained["imagenet"]
    assert entry.url == "https://huggingface.co/timm/convnext_tiny.fb_in1k/resolve/main/model.safetensors"
    assert entry.file == "convnext_tiny.fb_in1k.safetensors"
    assert entry.license == "apache-2.0"
    assert entry.mean == pytest.approx((123.675, 116.28, 103.53))
    by_default = create_backbone("timm:tf_mobilenetv3_small_100").pretrained["imagenet"]
    assert by_default.file == "tf_mobilenetv3_small_100.in1k.safetensors"
    assert by_default.mean == (127.5,) * 3


def test_pretrained_weights_with_their_normalization(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a server on this machine, in the place of Hugging Face."""
    from atrous.backbones import timm_library
    from tests.weights.test_pretrained import serve

    name = "tf_mobilenetv3_small_100.in1k"
    theirs = timm.create_model(name)
    imitate_training(theirs)
    folder = tmp_path / "server" / "timm" / name / "resolve" / "main"
    folder.mkdir(parents=True)
    save_file(theirs.state_dict(), folder / "model.safetensors")
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "cache"))
    with serve(tmp_path / "server") as url:
        monkeypatch.setattr(timm_library, "HUB", url)
        model = atrous.create_model("deeplab_v3", backbone=f"timm:{name}", num_classes=7, pretrained=True)
    assert (tmp_path / "cache" / f"{name}.safetensors").is_file()
    assert model.card is not None
    assert model.card.preprocessing.mean == (127.5,) * 3
    assert len(model.card.classes) == 7
    state = theirs.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.backbone.network.state_dict().items())


def test_torchvision_is_not_needed() -> None:
    """Where it works, timm takes the real one; where not, no stand-in stays behind."""
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torchvision":
            raise ImportError("no torchvision here")
sys.meta_path.insert(0, Missing())
import atrous
model = atrous.create_model("deeplab_v3_plus", backbone="timm:mobilenetv3_small_050")
assert not [name for name in sys.modules if name.partition(".")[0] == "torchvision"]
assert "timm.data" not in sys.modules
print(type(model).__name__)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "DeepLabV3Plus", result.stderr
