"""Caffe's networks: files written by a miniature of Caffe, and what it computes with their layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from atrous.models.crf_rnn import ModelWithCRF
from atrous.weights.importers import caffe
from tests.weights.importers import caffe_nets as nets
from tests.weights.importers.caffe_runtime import Net

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


@torch.no_grad()
def test_an_imported_crf_rnn_has_the_matrices_of_the_released_layer(tmp_path: Path) -> None:
    path, image, expected = written(tmp_path, nets.crf_rnn, {}, (40, 55))
    model, card = caffe.read(path)
    assert card.model == "crf_rnn.vgg16"
    assert isinstance(model, ModelWithCRF)
    assert card.preprocessing.std == model.std == (1, 1, 1)
    assert relative(model.eval().network(image), expected) < 1e-5
    spatial, bilateral = model.crf.filters(image, torch.float32)
    unary = refined = expected.flatten(2).mT
    for _ in range(10):
        marginals = refined.softmax(-1)
        messages = spatial(marginals) @ model.crf.spatial_weights.T
        messages += bilateral(marginals) @ model.crf.bilateral_weights.T
        refined = unary - messages @ model.crf.compatibility.T
    assert relative(model(image), refined.mT.view_as(expected)) < 1e-4
