"""Caffe's networks: files written by a miniature of Caffe, and what it computes with their layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import atrous
from atrous import AtrousError
from atrous.card import Card, Preprocessing
from atrous.models.crf_rnn import ModelWithCRF
from atrous.weights.importers import caffe
from atrous.weights.importers.formats import find_format
from tests.weights.importers import caffe_nets as nets
from tests.weights.importers.caffe_runtime import Net
from tests.weights.importers.protobuf_writer import message, varint, varint_field

Define = Callable[..., Tensor]

NETWORKS: dict[str, tuple[Define, dict[str, Any], tuple[int, int], str]] = {
    "fcn-32s": (nets.fcn, {"finest": 32}, (40, 55), "fcn_32s.vgg16"),
    "fcn-16s": (nets.fcn, {"finest": 16}, (40, 55), "fcn_16s.vgg16"),
    "fcn-8s": (nets.fcn, {"finest": 8}, (40, 55), "fcn_8s.vgg16"),
    "fcn-8s-atonce": (nets.fcn, {"finest": 8, "at_once": True}, (40, 55), "fcn_8s_at_once.vgg16"),
    "deeplab-largefov": (nets.deeplab_v1, {}, (65, 81), "deeplab_v1.vgg16"),
    "deeplab-msc-largefov": (nets.deeplab_v1, {"msc": True}, (65, 81), "deeplab_v1_msc.vgg16"),
    "deeplab-msc": (nets.deeplab_v1, {"msc": True, "large": False}, (65, 81), "deeplab_v1_msc.vgg16"),
    "deeplabv2-vgg16": (nets.deeplab_v2_vgg, {}, (65, 81), "deeplab_v2.vgg16"),
    "deeplabv2-vgg16-aspp-s": (nets.deeplab_v2_vgg, {"rates": (2, 4, 8, 12)}, (65, 81), "deeplab_v2.vgg16"),
    "deeplabv2-vgg16-largefov": (nets.deeplab_v2_vgg, {"rates": (12,)}, (65, 81), "deeplab_v2.vgg16"),
    "deeplabv2-resnet101": (nets.deeplab_v2_resnet, {}, (65, 81), "deeplab_v2.resnet101"),
    "segnet": (nets.segnet, {}, (45, 61), "segnet.vgg16"),
    "segnet-basic": (nets.segnet_basic, {}, (45, 61), "segnet.basic"),
    "pspnet50": (nets.pspnet, {"depth": 50, "window": 12, "classes": 150}, (89, 89), "pspnet.resnet50"),
    "pspnet101": (nets.pspnet, {"depth": 101, "window": 12}, (89, 89), "pspnet.resnet101"),
}
"""Networks by the names of their files: definition, arguments, size of the image, our id."""

PARAMETERS: dict[str, tuple[Define, dict[str, Any], tuple[int, int], int]] = {
    "fcn32s": (nets.fcn, {"finest": 32}, (500, 500), 136_152_917),
    "fcn16s": (nets.fcn, {"finest": 16}, (500, 500), 134_815_994),
    "fcn8s": (nets.fcn, {"finest": 8}, (500, 500), 134_489_759),
    "fcn8s-atonce": (nets.fcn, {"finest": 8, "at_once": True}, (500, 500), 134_490_527),
    "pascalcontext-fcn8s": (nets.fcn, {"finest": 8, "classes": 60}, (500, 500), 135_589_364),
    "crf-rnn": (nets.crf_rnn, {}, (500, 500), 134_491_103),
    "deeplab-largefov": (nets.deeplab_v1, {}, (513, 513), 20_505_429),
    "deeplab-msc-largefov": (nets.deeplab_v1, {"msc": True}, (513, 513), 21_711_550),
    "deeplabv2-vgg16": (nets.deeplab_v2_vgg, {}, (513, 513), 37_877_652),
    "deeplabv2-resnet101": (nets.deeplab_v2_resnet, {}, (513, 513), 44_048_532),
    "dilation7-kitti": (nets.basic_context, {"levels": 7, "classes": 11}, (480, 1268), 134_312_343),
    "dilation8-camvid": (nets.basic_context, {"levels": 8, "classes": 11}, (528, 728), 134_313_443),
    "dilation8-voc": (nets.dilation8_voc, {}, (528, 528), 141_149_720),
    "dilation10-cityscapes": (nets.basic_context, {"levels": 10, "classes": 19}, (1024, 1024), 134_373_043),
    "segnet": (nets.segnet, {}, (360, 480), 29_449_355),
    "segnet-basic": (nets.segnet_basic, {}, (360, 480), 1_416_587),
    "pspnet50-ade20k": (nets.pspnet, {"depth": 50, "window": 60, "classes": 150}, (473, 473), 46_782_550),
    "pspnet101-voc": (nets.pspnet, {"depth": 101, "window": 60}, (473, 473), 65_708_501),
    "pspnet101-cityscapes": (nets.pspnet, {"depth": 101, "window": 90, "classes": 19}, (713, 713), 65_707_475),
}
"""Networks as released, with the numbers of their parameters counted from the prototxts, without running averages."""

DILATED: dict[str, tuple[Define, dict[str, Any], str]] = {
    "front": (nets.front_end, {"score": "fc-final", "classes": 21}, "dilated_frontend.vgg16"),
    "dilation7-kitti": (nets.basic_context, {"levels": 7, "classes": 11}, "dilation7.vgg16"),
    "dilation8-camvid": (nets.basic_context, {"levels": 8, "classes": 11}, "dilation8.vgg16"),
    "dilation8-voc": (nets.dilation8_voc, {}, "dilation8.vgg16"),
    "dilation10-cityscapes": (nets.basic_context, {"levels": 10, "classes": 19}, "dilation10.vgg16"),
}


def relative(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def written(path: Path, define: Define, arguments: dict[str, Any], size: tuple[int, int], **options: Any):
    net = Net(**options)
    image = net.image(*size)
    expected = define(net, image, **arguments)
    return net.write(path / "net.caffemodel"), image, expected


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_an_imported_network_computes_what_caffe_does(name: str, tmp_path: Path) -> None:
    define, arguments, size, model_id = NETWORKS[name]
    path, image, expected = written(tmp_path, define, arguments, size)
    model, card = caffe.read(path)
    assert card.model == model_id
    assert relative(model.eval()(image), expected) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("name", DILATED)
def test_an_imported_dilated_network_computes_what_caffe_does(name: str, tmp_path: Path) -> None:
    define, arguments, model_id = DILATED[name]
    path, image, expected = written(tmp_path, define, arguments, (40, 56))
    model, card = caffe.read(path)
    assert card.model == model_id
    model.eval()
    found = model(image) if name == "dilation10-cityscapes" else model.scores(image)
    assert relative(found, expected) < 1e-5


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("name", PARAMETERS)
def test_released_sizes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every array of the full-size network has a place of its shape in ours, and none of ours is left out."""
    define, arguments, size, parameters = PARAMETERS[name]
    net = Net(width=1, shapes_only=True)
    define(net, net.image(*size), **arguments)
    loaded: dict[str, Tensor] = {}
    monkeypatch.setattr(caffe, "read_layers", lambda path: net.layers)
    monkeypatch.setattr(caffe, "load_tensors", lambda model, tensors, source: loaded.update(tensors))
    model, card = caffe.read(tmp_path / "net.caffemodel")
    assert {key: value.shape for key, value in loaded.items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert "width" not in card.arguments
    assert sum(value.numel() for value in model.parameters()) == parameters


@torch.no_grad()
@pytest.mark.parametrize("name", ["deeplab-msc-largefov", "deeplabv2-vgg16-aspp-s"])
def test_both_generations_of_layers_are_read(name: str, tmp_path: Path) -> None:
    define, arguments, size, model_id = NETWORKS[name]
    path, image, expected = written(tmp_path, define, arguments, size, v1=True)
    model, card = caffe.read(path)
    assert card.model == model_id
    assert relative(model.eval()(image), expected) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["deeplab-largefov", "deeplabv2-vgg16", "deeplabv2-resnet101", "pspnet50", "pspnet101"]
)
def test_a_file_without_geometry_has_that_of_the_release(name: str, tmp_path: Path) -> None:
    define, arguments, size, model_id = NETWORKS[name]
    if name.startswith("pspnet"):
        arguments, size = {**arguments, "window": 60}, (473, 473)
    path, image, expected = written(tmp_path, define, arguments, size, states_geometry=False)
    model, card = caffe.read(path)
    assert card.model == model_id
    assert relative(model.eval()(image), expected) < 1e-5


def test_copies_for_smaller_scales_make_a_network_of_three_scales(tmp_path: Path) -> None:
    net = Net()
    image = net.image(65, 65)
    nets.deeplab_v2_resnet(net, image)
    net.write(tmp_path / "one.caffemodel")
    for suffix in ("_res075", "_res05"):
        nets.deeplab_v2_resnet(net, image, suffix=suffix)
    one, _ = caffe.read(tmp_path / "one.caffemodel")
    three, card = caffe.read(net.write(tmp_path / "three.caffemodel"))
    assert card.model == "deeplab_v2_msc.resnet101"
    assert all(torch.equal(value, three.state_dict()[key]) for key, value in one.state_dict().items())


@torch.no_grad()
def test_another_epsilon_goes_into_the_variances(tmp_path: Path) -> None:
    arguments = {"eps": 1e-2}
    path, image, expected = written(tmp_path, nets.deeplab_v2_resnet, arguments, (65, 65))
    model, _ = caffe.read(path)
    assert relative(model.eval()(image), expected) < 1e-5


@torch.no_grad()
def test_an_imported_crf_rnn_has_the_matrices_of_the_released_layer(tmp_path: Path) -> None:
    net = Net()
    image = net.image(40, 55)
    expected = nets.crf_rnn(net, image)
    model, card = caffe.read(net.write(tmp_path / "net.caffemodel"))
    assert card.model == "crf_rnn.vgg16"
    assert isinstance(model, ModelWithCRF)
    assert card.preprocessing.std == model.std == (1, 1, 1)
    assert relative(model.eval().network(image), expected) < 1e-5
    spatial_weights, bilateral_weights, compatibility = (torch.from_numpy(b)[0, 0] for b in net.layers[-1].blobs)
    spatial, bilateral = model.crf.filters(image, torch.float32)
    unary = refined = expected.flatten(2)
    for _ in range(10):  # matrices from the left of (classes, pixels), as in meanfield_iteration.cpp
        marginals = refined.softmax(1).mT
        messages = spatial_weights @ spatial(marginals).mT + bilateral_weights @ bilateral(marginals).mT
        refined = unary - compatibility @ messages
    assert relative(model(image), refined.view_as(expected)) < 1e-4


@torch.no_grad()
def test_the_first_names_of_fcn_are_known_too(tmp_path: Path) -> None:
    """Those of the networks of 2015, which CRF-RNN kept."""
    net = Net()
    image = net.image(40, 55)
    expected = nets.crf_rnn(net, image)
    del net.encoded[-1]
    model, card = caffe.read(net.write(tmp_path / "net.caffemodel"))
    assert card.model == "fcn_8s.vgg16"
    assert relative(model.eval()(image), expected) < 1e-5


def test_cards_hold_means_classes_and_sizes(tmp_path: Path) -> None:
    def card(define: Define, **arguments: Any) -> Card:
        return caffe.read(written(tmp_path, define, arguments, (40, 56))[0])[1]

    fcn = card(nets.fcn, finest=32)
    assert fcn.preprocessing == Preprocessing(
        channel_order="BGR", mean=(104.00699, 116.66877, 122.67892), std=(1, 1, 1)
    )
    assert (fcn.classes[15], fcn.license, fcn.source) == ("person", "unknown", "Caffe, net.caffemodel")
    assert card(nets.fcn, finest=32, classes=60).classes[0] == "background"
    assert card(nets.fcn, finest=32, classes=3).classes == ("class 0", "class 1", "class 2")
    assert card(nets.deeplab_v1).preprocessing.mean == (104.008, 116.669, 122.675)
    crf_rnn = card(nets.crf_rnn).preprocessing
    assert (crf_rnn.mean, crf_rnn.resize, crf_rnn.size) == ((103.939, 116.779, 123.68), "pad", (500, 500))
    segnet = card(nets.segnet)
    assert (segnet.classes[0], segnet.preprocessing.mean) == ("sky", (0, 0, 0))
    assert (segnet.preprocessing.resize, segnet.preprocessing.size) == ("squeeze", (360, 480))
    assert card(nets.segnet, classes=37).preprocessing.resize == "keep"
    camvid, kitti = (card(nets.basic_context, levels=levels, classes=11) for levels in (8, 7))
    assert camvid.classes == kitti.classes
    assert camvid.classes[:3] == ("building", "tree", "sky")
    assert camvid.colors[2] == (128, 128, 128)
    assert camvid.preprocessing.mean[0] == pytest.approx(110.703, abs=1e-3)
    assert kitti.preprocessing.mean[0] == pytest.approx(96.194, abs=1e-3)
    cityscapes = card(nets.basic_context, levels=10, classes=19)
    assert (cityscapes.classes[0], cityscapes.preprocessing.mean) == ("road", (72.39, 82.91, 73.16))
    pspnet = card(nets.pspnet, depth=50, window=12, classes=150)
    assert (pspnet.classes[0], pspnet.preprocessing.grid, pspnet.align_corners) == ("wall", 8, True)


def test_dropout_around_the_bottleneck_makes_a_bayesian_segnet(tmp_path: Path) -> None:
    net = Net()
    nets.segnet_basic(net, net.image(40, 56))
    net.add("encdrop3", "Dropout", [])
    model, card = caffe.read(net.write(tmp_path / "net.caffemodel"))
    assert card.model == "bayesian_segnet.basic"
    assert model.bayesian == 2


def test_the_file_is_recognized_by_its_content(tmp_path: Path) -> None:
    for v1 in (False, True):
        path, *_ = written(tmp_path, nets.deeplab_v1, {}, (65, 65), v1=v1)
        assert find_format(path.rename(tmp_path / "weights.bin")).name == "Caffe network"
        model = atrous.load(tmp_path / "weights.bin")
        assert model.card is not None
        assert model.card.model == "deeplab_v1.vgg16"


def basic(tmp_path: Path, change: Callable[[Net], None] = lambda net: None) -> Path:
    """Write a small network, with changed layers."""
    net = Net(width=1 / 32)
    nets.segnet_basic(net, net.image(16, 16))
    change(net)
    return net.write(tmp_path / "net.caffemodel")


def rename(old: str, new: str) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        index = [layer.name for layer in net.layers].index(old)
        blobs = [torch.from_numpy(blob) for blob in net.layers[index].blobs]
        net.add(new, net.layers[index].type, blobs, **net.layers[index].geometry)
        net.encoded[index] = net.encoded.pop()

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (rename("conv_decode1", "conv_decoder1"), "missing: 'conv_decode1'; unexpected: 'conv_decoder1'"),
        (rename("conv1", "a\nb"), r"missing: 'conv1'; unexpected: 'a\\nb'"),
        (lambda net: net.encoded.pop(), "missing: 'dense_softmax_inner_prod'"),
        (lambda net: net.encoded.append(net.encoded[0]), "two layers with parameters are named 'conv1'"),
        (lambda net: net.encoded.clear(), "the layers are those of no known network: none"),
        (rename("conv_decode4", "conv_decode5"), "those of no known network: 'conv1', 'conv1_bn', .* and 13 more"),
    ],
)
def test_missing_and_unexpected_layers_are_named(change: Callable[[Net], None], problem: str, tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match=problem):
        caffe.read(basic(tmp_path, change))


def replace(name: str, *blobs: Tensor, kind: str = "", **geometry: int) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        index = [layer.name for layer in net.layers].index(name)
        net.add(name, kind or net.layers[index].type, list(blobs), **geometry)
        net.encoded[index] = net.encoded.pop()

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            replace("conv2", torch.ones(4, 4, 5, 5)),
            r"layer 'conv2' has a weight of shape \(4, 4, 5, 5\), expected \(4, 4",
        ),
        (replace("conv2", *[torch.ones(4)] * 3), "layer 'conv2' has 3 arrays, expected 2"),
        (replace("conv2", torch.ones(4, 4, 7, 7)), "'backbone.convs.1.0.bias' is missing"),
        (replace("conv2_bn", *[torch.ones(4)] * 4), "layer 'conv2_bn' has 4 arrays, expected 2, as in segnet.basic"),
        (replace("conv2_bn", torch.ones(5), torch.ones(4)), r"has a weight of shape \(5,\), expected \(4,\)"),
        (replace("conv2_bn", torch.ones(4), torch.full((4,), torch.inf)), "NaN or infinite"),
        (
            replace("conv2", torch.ones(4, 4, 7, 7), torch.ones(4), kernel_size=7, stride=2, dilation=1),
            "layer 'conv2' has stride 2, expected 1",
        ),
        (
            replace("conv2", torch.ones(4, 4, 7, 7), torch.ones(4), kernel_size=7, dilation=3),
            "layer 'conv2' has dilation 3, expected 1. A network with another geometry",
        ),
        (
            replace("dense_softmax_inner_prod", torch.ones(10_001, 4, 1, 1), torch.ones(10_001)),
            "the last layer has 10001 classes; expected 1 to 10000",
        ),
    ],
)
def test_other_shapes_and_geometries_are_refused(change: Callable[[Net], None], problem: str, tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match=problem):
        caffe.read(basic(tmp_path, change))


def test_variants_with_other_pooling_are_refused(tmp_path: Path) -> None:
    path, *_ = written(tmp_path, nets.deeplab_v1, {"large": False}, (65, 65))
    with pytest.raises(AtrousError, match=r"fc6 is of 4x4: of DeepLab v1, LargeFOV \(3x3\), MSc-LargeFOV and MSc"):
        caffe.read(path)


def test_negative_variances_are_refused(tmp_path: Path) -> None:
    net = Net()
    nets.pspnet(net, net.image(89, 89), 50, 12)
    replace("conv6", torch.ones(21, 32, 1, 1), torch.ones(21))(net)
    replace("conv5_4/bn", *[torch.full((32,), -1.0)] * 4)(net)
    with pytest.raises(AtrousError, match="layer 'conv5_4/bn' has negative variances"):
        caffe.read(net.write(tmp_path / "net.caffemodel"))


def blob(shape: bytes, values: int) -> bytes:
    return message(7, message(7, message(1, shape)) + message(5, bytes(4 * values)))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (blob(varint(2**40), 4), r"an array of shape \(1099511627776,\) has 4 values"),
        (blob(varint(2**63 - 1) * 2, 4), "an array of shape .* has 4 values"),
        (blob(varint(-4), 4), r"an array of shape \(-4,\) has 4 values"),
        (blob(varint(1) * 1000, 1), "an array of shape .* has 1 values"),
        (blob(b"", 4), r"an array of shape \(\) has 4 values"),
        (message(7, message(5, bytes(6))), "6 bytes, which are no whole numbers"),
        (message(7, varint_field(1, 2) * 2000), "more than 200 fields"),
        (varint_field(7, 3), "expected bytes"),
        (message(1, b"\xff"), "not valid text"),
        (message(106, varint_field(4, 3) + b"\x30"), "an integer is longer than 10 bytes, or ends"),
        (b"\x3a" + varint(2**40) + b"ab", "claims 1099511627776 bytes of the 2 that are left"),
    ],
)
def test_lying_files_are_refused(content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(message(1, b"net") + message(100, content))
    with pytest.raises(AtrousError, match=f"truncated or altered .*{problem}"):
        caffe.read(path)


def test_files_that_are_not_readable_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.caffemodel").touch()
    for name in ("empty.caffemodel", "missing.caffemodel"):
        with pytest.raises(AtrousError, match=f"{name}: cannot read this file"):
            caffe.read(tmp_path / name)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    folder = tmp_path_factory.mktemp("caffe")
    return folder / "damaged.caffemodel", basic(folder).read_bytes()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_damaged_files_are_refused_in_one_line_or_load_finite_tensors(damaged, data: st.DataObject) -> None:
    path, content = damaged
    changed = bytearray(content)
    places = st.integers(0, len(content) - 1)
    for place in data.draw(st.lists(places, max_size=4), label="flipped bits"):
        changed[place] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.booleans(), label="another header"):
        place = data.draw(places)
        inserted = data.draw(st.binary(min_size=1, max_size=12))
        changed[place : place + len(inserted)] = inserted
    if data.draw(st.booleans(), label="truncated"):
        del changed[data.draw(places) :]
    path.write_bytes(changed)
    problem, values = outcome(path)
    assert "\n" not in problem
    assert len(problem) < 1000
    assert all(value.isfinite().all() for value in values)


def outcome(path: Path) -> tuple[str, list[Tensor]]:
    """Read a file: the message of its error, or its tensors."""
    try:
        model, _ = caffe.read(path)
    except AtrousError as error:
        return str(error), []
    return "", list(model.state_dict().values())
