"""The released Caffe networks, layer by layer, for the miniature of Caffe.

Names, kernels, strides, paddings and dilations are those of the prototxts in shelhamer/fcn.berkeleyvision.org
(`voc-fcn*/`), bittnt/crfasrnn (`python-scripts/TVG_CRFRNN_new_deploy.prototxt`), TheLegendAli/DeepLab-Context
(`config/*/test.prototxt`), talent518/deeplab-public-ver2 (`exper/voc12/config/vgg16/test_val.prototxt`),
alexgkendall/SegNet-Tutorial (`Example_Models/`), fyu/dilation (`models/`) and hszhao/PSPNet (`evaluation/prototxt/`);
for DeepLab v2 on ResNet-101 those of DrSleep/tensorflow-deeplab-resnet (`deeplab_resnet/model.py`).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.weights.importers.caffe_runtime import Net, crop, interp

CONVS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
TWO = ((2, 2, 0),) * 5
THREE = ((3, 2, 1),) * 3 + ((3, 1, 1),) * 2


def vgg(net: Net, x: Tensor, pools: tuple = TWO, *, first: int = 1, pad: int = 1, last: int = 1) -> list[Tensor]:
    """VGG-16; `pools` are kernel, stride and padding, `last` is the dilation of conv5. Returns the pooled maps."""
    maps = []
    for stage, (channels, count) in enumerate(CONVS, start=1):
        dilation = last if stage == 5 else 1
        for index in range(1, count + 1):
            padding = first if (stage, index) == (1, 1) else pad * dilation
            x = net.relu(net.conv(f"conv{stage}_{index}", x, net.c(channels), 3, pad=padding, dilation=dilation))
        if stage <= len(pools):
            x = net.pool(f"pool{stage}", x, *pools[stage - 1])
        maps.append(x)
    return maps


def fully_connected(net: Net, x: Tensor, kernel: int, channels: int, **geometry: int) -> Tensor:
    x = net.relu(net.conv("fc6", x, net.c(channels), kernel, **geometry))
    return net.relu(net.conv("fc7", x, net.c(channels), 1))


def fcn(net: Net, x: Tensor, finest: int, *, at_once: bool = False, classes: int = 21) -> Tensor:
    """`voc-fcn32s`, `voc-fcn16s`, `voc-fcn8s` and `voc-fcn8s-atonce`."""
    *_, pool3, pool4, pool5 = vgg(net, x, first=100)
    score = net.conv("score_fr", fully_connected(net, pool5, 7, 4096), classes, 1)
    if finest == 32:
        return crop(net.deconv("upscore", score, 64, 32), x, 19)
    names = (("upscore2", 4, pool4, 5), ("upscore_pool4", 3, pool3, 9))
    for name, number, pool, offset in names if finest == 8 else names[:1]:
        score = net.deconv(name, score, 4, 2)
        if at_once:
            factor = net.positive(pool.shape[1])
            net.add(f"scale_pool{number}", "Scale", [factor])
            pool = pool * factor[:, None, None]
        score = score + crop(net.conv(f"score_pool{number}", pool, classes, 1), score, offset)
    upscore = net.deconv(f"upscore{finest}", score, 2 * finest, finest)
    return crop(upscore, x, {16: 27, 8: 31}[finest])


def crf_rnn(net: Net, x: Tensor, classes: int = 21) -> Tensor:
    """`TVG_CRFRNN_new_deploy`; returns the scores that enter the mean field."""
    *_, pool3, pool4, pool5 = vgg(net, x, first=100)
    score = net.conv("score-fr", fully_connected(net, pool5, 7, 4096), classes, 1)
    score = net.deconv("score2", score, 4, 2, bias=True)
    score = score + crop(net.conv("score-pool4", pool4, classes, 1), score, 5)
    score = net.deconv("score4", score, 4, 2)
    score = score + crop(net.conv("score-pool3", pool3, classes, 1), score, 9)
    score = crop(net.deconv("upsample", score, 16, 8), x, 31)
    matrices = [net.random(1, 1, classes, classes, std=0.3) for _ in range(3)]
    net.add("inference1", "MultiStageMeanfield", matrices)
    return score


def deeplab_v1(net: Net, x: Tensor, *, msc: bool = False, large: bool = True, classes: int = 21) -> Tensor:
    """`DeepLab-LargeFOV`, `DeepLab-MSc-LargeFOV` and, with a 4x4 fc6, `DeepLab-MSc`."""
    maps = vgg(net, x, THREE, last=2)
    if large:
        features = net.pool("pool5a", maps[-1], 3, 1, 1, average=True)
        features = fully_connected(net, features, 3, 1024, pad=12, dilation=12)
    else:
        features = fully_connected(net, maps[-1], 4, 4096, pad=6, dilation=4)
    total = interp(net.conv("fc8_exper/voc12" if large else "fc8_pascal", features, classes, 1), 8)
    if msc:
        names = ("data", "pool1", "pool2", "pool3", "pool4")
        for name, branch, zoom in zip(names, (x, *maps[:4]), (1, 2, 4, 8, 8), strict=True):
            branch = net.relu(net.conv(f"{name}_conv", branch, net.c(128), 3, pad=1))
            branch = net.relu(net.conv(f"{name}_fc", branch, net.c(128), 1))
            total = total + interp(net.conv(f"{name}_ms", branch, classes, 1), zoom)
    return total


def deeplab_v2_vgg(net: Net, x: Tensor, rates: tuple[int, ...] = (6, 12, 18, 24), classes: int = 21) -> Tensor:
    """`vgg16`: the sum of four classifiers; with a single rate "LargeFOV", whose layers have no number."""
    features = vgg(net, x, THREE, last=2)[-1]
    total = 0
    for number, rate in enumerate(rates, start=1):
        suffix = f"_{number}" if len(rates) > 1 else ""
        branch = net.relu(net.conv(f"fc6{suffix}", features, net.c(1024), 3, pad=rate, dilation=rate))
        branch = net.relu(net.conv(f"fc7{suffix}", branch, net.c(1024), 1))
        total = total + net.conv(f"fc8_voc12{suffix}", branch, classes, 1)
    return interp(total, 8)


def deeplab_v2_resnet(net: Net, x: Tensor, *, suffix: str = "", classes: int = 21, eps: float = 1e-5) -> Tensor:
    """DeepLab v2 on ResNet-101: strides on the first 1x1 convolution, dilation 2 in res4 and 4 in res5."""

    def unit(x: Tensor, name: str, mid: int, stride: int, dilation: int, project: bool) -> Tensor:
        def normed(branch: str, x: Tensor, out: int, kernel: int = 1, **geometry: int) -> Tensor:
            x = net.conv(f"res{name}_branch{branch}{suffix}", x, out, kernel, bias=False, **geometry)
            names = (f"{kind}{name}_branch{branch}{suffix}" for kind in ("bn", "scale"))
            return net.batch_norm(*names, x, eps=eps)

        shortcut = normed("1", x, 4 * mid, stride=stride) if project else x
        x = net.relu(normed("2a", x, mid, stride=stride))
        x = net.relu(normed("2b", x, mid, 3, pad=dilation, dilation=dilation))
        return net.relu(shortcut + normed("2c", x, 4 * mid))

    x = net.conv(f"conv1{suffix}", x, net.c(64), 7, pad=3, stride=2, bias=False)
    x = net.pool(f"pool1{suffix}", net.relu(net.batch_norm(f"bn_conv1{suffix}", f"scale_conv1{suffix}", x)), 3, 2, 1)
    for stage, count, stride, dilation in ((2, 3, 1, 1), (3, 4, 2, 1), (4, 23, 1, 2), (5, 3, 1, 4)):
        for index in range(count):
            letter = "abc"[index] if count == 3 else "a" if index == 0 else f"b{index}"
            mid = net.c(64) * 2 ** (stage - 2)
            x = unit(x, f"{stage}{letter}", mid, stride if index == 0 else 1, dilation, index == 0)
    names = [(f"fc1_voc12_c{index}{suffix}", rate) for index, rate in enumerate((6, 12, 18, 24))]
    scores = [net.conv(name, x, classes, 3, pad=rate, dilation=rate) for name, rate in names]
    return interp(sum(scores[1:], scores[0]), 8)


def front_end(net: Net, x: Tensor, score: str, classes: int) -> Tensor:
    """`dilated_convolution_front`; the image is padded by reflection beforehand, by 186 pixels."""
    if not x.is_meta:
        x = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (186, 186), (186, 186)), "reflect"))
    else:
        x = torch.empty(1, 3, x.shape[2] + 372, x.shape[3] + 372, device="meta")
    features = vgg(net, x, TWO[:3], first=0, pad=0, last=2)[-1]
    features = fully_connected(net, features, 7, 4096, dilation=4)
    return net.conv(score, features, classes, 1)


def dilation8_voc(net: Net, x: Tensor) -> Tensor:
    """`dilation8_pascal_voc_deploy`: the large context module, padded once."""
    x = front_end(net, x, "fc-final", 21)
    layers = (("conv1_1", 42, 1), ("conv1_2", 42, 1), ("conv2_1", 84, 2), ("conv3_1", 168, 4), ("conv4_1", 336, 8))
    layers += (("conv5_1", 672, 16), ("fc1", 672, 1))
    for name, channels, dilation in layers:
        x = net.relu(net.conv(f"ct_{name}", x, channels, 3, pad=33 * (name == "conv1_1"), dilation=dilation))
    return net.conv("ct_final", x, 21, 1)


def basic_context(net: Net, x: Tensor, levels: int, classes: int) -> Tensor:
    """`dilation7_kitti`, `dilation8_camvid` and `dilation10_cityscapes`, whose scores are upsampled in the network."""
    x = front_end(net, x, "final", classes)
    for index, dilation in enumerate((1, 1, *(2**level for level in range(1, levels - 3)), 1)):
        name = "fc1" if index == levels - 2 else f"conv{max(1, index)}_{2 if index == 1 else 1}"
        x = net.relu(net.conv(f"ctx_{name}", x, classes, 3, pad=dilation, dilation=dilation))
    x = net.conv("ctx_final", x, classes, 1)
    return net.deconv("ctx_upsample", x, 16, 8, pad=4, group=classes) if levels == 10 else x


def segnet(net: Net, x: Tensor, classes: int = 11) -> Tensor:
    """`segnet_pascal` and `bayesian_segnet_camvid`."""

    def block(name: str, x: Tensor, channels: int) -> Tensor:
        return net.relu(net.folded_norm(f"{name}_bn", net.conv(name, x, net.c(channels), 3, pad=1)))

    masks = []
    for stage, (channels, count) in enumerate(CONVS, start=1):
        for index in range(1, count + 1):
            x = block(f"conv{stage}_{index}", x, channels)
        masks.append((x.shape[2:], None))
        x, mask = F.max_pool2d(x, 2, 2, ceil_mode=True, return_indices=True)
        masks[-1] = (masks[-1][0], mask)
    for stage, (channels, count) in reversed(list(enumerate(CONVS, start=1))):
        size, mask = masks.pop()
        x = upsample(x, mask, size)
        for index in range(count, 0, -1):
            if (stage, index) == (1, 1):
                return net.conv("conv1_1_D", x, classes, 3, pad=1)
            x = block(f"conv{stage}_{index}_D", x, CONVS[stage - 2][0] if index == 1 else channels)
    raise AssertionError


def segnet_basic(net: Net, x: Tensor, classes: int = 11) -> Tensor:
    """`segnet_basic_camvid`: LRN over 5 channels, and no ReLU in the decoder."""
    squares = F.pad(x * x, (0, 0, 0, 0, 2, 2))
    sums = sum(squares[:, offset : offset + 3] for offset in range(5))
    x = x / (1 + 1e-4 / 5 * sums) ** 0.75
    masks = []
    for index in range(1, 5):
        x = net.relu(net.folded_norm(f"conv{index}_bn", net.conv(f"conv{index}", x, net.c(64), 7, pad=3)))
        size = x.shape[2:]
        x, mask = F.max_pool2d(x, 2, 2, ceil_mode=True, return_indices=True)
        masks.append((mask, size))
    for index in range(4, 0, -1):
        x = upsample(x, *masks.pop())
        name = f"conv_decode{index}"
        x = net.folded_norm(f"{name}_bn", net.conv(name, x, net.c(64), 7, pad=3))
    return net.conv("dense_softmax_inner_prod", x, classes, 1)


def upsample(x: Tensor, mask: Tensor, size: torch.Size) -> Tensor:
    """`Upsample`: each value goes to the place of the maximum that it came from."""
    if x.is_meta:
        return torch.empty(*x.shape[:2], *size, device="meta")
    return F.max_unpool2d(x, mask, 2, 2, output_size=list(size))


def pspnet(net: Net, x: Tensor, depth: int, window: int, classes: int = 21) -> Tensor:
    """`pspnet50_ADE20K_473`, whose strides are on the 1x1, and `pspnet101_VOC2012_473`, whose are on the 3x3."""

    def normed(name: str, x: Tensor, out: int, kernel: int = 1, **geometry: int) -> Tensor:
        return net.slope_norm(f"{name}/bn", net.conv(name, x, out, kernel, bias=False, **geometry))

    for index, (channels, suffix) in enumerate(((64, "_s2"), (64, ""), (128, "")), start=1):
        name = f"conv1_{index}_3x3{suffix}"
        x = net.relu(normed(name, x, net.c(64) * channels // 64, 3, pad=1, stride=2 if suffix else 1))
    x = net.pool("pool1_3x3_s2", x, 3, 2, 1)
    for stage, count in enumerate({50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[depth], start=2):
        dilation, mid = {4: 2, 5: 4}.get(stage, 1), net.c(64) * 2 ** (stage - 2)
        for index in range(1, count + 1):
            name, stride = f"conv{stage}_{index}", 2 if (stage, index) == (3, 1) else 1
            first, second = (stride, 1) if depth == 50 else (1, stride)
            branch = net.relu(normed(f"{name}_1x1_reduce", x, mid, stride=first))
            branch = net.relu(normed(f"{name}_3x3", branch, mid, 3, pad=dilation, dilation=dilation, stride=second))
            branch = normed(f"{name}_1x1_increase", branch, 4 * mid)
            x = normed(f"{name}_1x1_proj", x, 4 * mid, stride=stride) if index == 1 else x
            x = net.relu(x + branch)
    maps = {}
    for bins in (1, 2, 3, 6):
        pooled = net.pool(f"conv5_3_pool{bins}", x, window // bins, window // bins, average=True)
        pooled = net.relu(normed(f"conv5_3_pool{bins}_conv", pooled, x.shape[1] // 4))
        maps[bins] = F.interpolate(pooled, x.shape[2:], mode="bilinear", align_corners=True)
    x = torch.cat([x, maps[6], maps[3], maps[2], maps[1]], 1)
    x = net.relu(normed("conv5_4", x, net.c(512), 3, pad=1))
    return interp(net.conv("conv6", x, classes, 1), 8)
