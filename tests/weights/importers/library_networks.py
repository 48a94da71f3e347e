"""Networks of libraries that cannot be installed here, written from their published structure, with their key names.

They share no code with the package: dilations, paddings, resizes and the order of concatenation are spelled out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


@torch.no_grad()
def randomize(network: nn.Module) -> nn.Module:
    """Give a network random weights and batch statistics that keep its features at a similar scale."""
    generator = torch.Generator().manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.1, generator=generator)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.3, generator=generator)
            nn.init.uniform_(layer.running_var, 0.5, 2.0, generator=generator)
            nn.init.uniform_(layer.weight, 0.5, 1.0, generator=generator)
            nn.init.normal_(layer.bias, std=0.3, generator=generator)
    return network.eval()


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def conv_norm(into: int, out: int, kernel: int = 1, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    padding = dilation * (kernel // 2)
    return [nn.Conv2d(into, out, kernel, stride, padding, dilation, bias=False), nn.BatchNorm2d(out)]


def conv_norm_relu(into: int, out: int, kernel: int = 1, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(*conv_norm(into, out, kernel, stride, dilation), nn.ReLU())


class Bottleneck(nn.Module):
    """A unit with torchvision's names; the stride is on the 3x3 convolution."""

    def __init__(self, into: int, mid: int, stride: int, dilation: int, project: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_norm(into, mid)
        self.conv2, self.bn2 = conv_norm(mid, mid, 3, stride, dilation)
        self.conv3, self.bn3 = conv_norm(mid, 4 * mid)
        self.downsample = nn.Sequential(*conv_norm(into, 4 * mid, stride=stride)) if project else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class DilatedResNet(nn.Module):
    """A ResNet at output stride 8 or 16, with torchvision's rates; the stem is given.

    The first unit of a stage has the rate of the stage before, the others that of the stage.
    """

    def __init__(self, depth: int, into: int, stride: int) -> None:
        super().__init__()
        layout = {8: ((1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)), 16: ((1, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 2))}
        for stage, (step, first, later) in enumerate(layout[stride]):
            mid = 64 * 2**stage
            units = [Bottleneck(into, mid, step, first, project=True)]
            units += [Bottleneck(4 * mid, mid, 1, later, project=False) for _ in range(UNITS[depth][stage] - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*units))
            into = 4 * mid

    def stem_of(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(self.stem_of(x), 3, 2, 1)
        maps = []
        for stage in (1, 2, 3, 4):
            x = self.get_submodule(f"layer{stage}")(x)
            maps.append(x)
        return maps


class PlainResNet(DilatedResNet):
    """A ResNet with a 7x7 convolution as its stem."""

    def __init__(self, depth: int, stride: int) -> None:
        super().__init__(depth, 64, stride)
        self.conv1, self.bn1 = conv_norm(3, 64, 7, 2)

    def stem_of(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)))


# mmsegmentation


class ResNetV1c(DilatedResNet):
    """mmsegmentation's ResNetV1c at output stride 8: three 3x3 convolutions of 32, 32 and 64 channels as its stem."""

    def __init__(self, depth: int) -> None:
        super().__init__(depth, 64, 8)
        relu = nn.ReLU()
        self.stem = nn.Sequential(
            *conv_norm(3, 32, 3, 2), relu, *conv_norm(32, 32, 3), nn.ReLU(), *conv_norm(32, 64, 3), nn.ReLU()
        )

    def stem_of(self, x: Tensor) -> Tensor:
        return self.stem(x)


class ConvModule(nn.Module):
    """mmcv's convolution, batch normalization and ReLU, named `conv` and `bn`."""

    def __init__(self, into: int, out: int, kernel: int = 1, dilation: int = 1, groups: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(into, out, kernel, padding=padding, dilation=dilation, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class SeparableModule(nn.Module):
    """mmcv's depthwise separable convolution: both halves with batch normalization and ReLU."""

    def __init__(self, into: int, out: int, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise_conv = ConvModule(into, into, 3, dilation, groups=into)
        self.pointwise_conv = ConvModule(into, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))


class MMFCNHead(nn.Module):
    """mmsegmentation's FCN head: convolutions, fused with their input if there are several, and a classifier."""

    def __init__(self, into: int, channels: int, classes: int, convs: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(ConvModule(into if i == 0 else channels, channels, 3) for i in range(convs)))
        if convs > 1:
            self.conv_cat = ConvModule(into + channels, channels, 3)
        self.conv_seg = nn.Conv2d(channels, classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = maps[-1]
        y = self.convs(x)
        if hasattr(self, "conv_cat"):
            y = self.conv_cat(torch.cat([x, y], 1))
        return self.conv_seg(y)


class MMPSPHead(nn.Module):
    """mmsegmentation's PSPNet: the map first, then its averages over 1, 2, 3 and 6 bins."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), ConvModule(2048, 512)) for bins in (1, 2, 3, 6)
        )
        self.bottleneck = ConvModule(2048 + 4 * 512, 512, 3)
        self.conv_seg = nn.Conv2d(512, classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = maps[-1]
        pooled = [upsample(pool(x), x.shape[2:]) for pool in self.psp_modules]
        return self.conv_seg(self.bottleneck(torch.cat([x, *pooled], 1)))


class MMASPPHead(nn.Module):
    """mmsegmentation's DeepLabV3: image pooling before the branches, and a 3x3 convolution at the end."""

    def __init__(self, classes: int, *, separable: bool = False) -> None:
        super().__init__()
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvModule(2048, 512))
        self.aspp_modules = nn.ModuleList([ConvModule(2048, 512)])
        for rate in (12, 24, 36):
            self.aspp_modules.append(
                SeparableModule(2048, 512, rate) if separable else ConvModule(2048, 512, 3, dilation=rate)
            )
        self.bottleneck = ConvModule(5 * 512, 512, 3)
        self.conv_seg = nn.Conv2d(512, classes, 1)

    def encode(self, maps: list[Tensor]) -> Tensor:
        x = maps[-1]
        pooled = upsample(self.image_pool(x), x.shape[2:])
        return self.bottleneck(torch.cat([pooled, *(branch(x) for branch in self.aspp_modules)], 1))

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.conv_seg(self.encode(maps))


class MMSeparableASPPHead(MMASPPHead):
    """mmsegmentation's DeepLabV3Plus: separable branches, and a decoder of two separable convolutions."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes, separable=True)
        self.c1_bottleneck = ConvModule(256, 48)
        self.sep_bottleneck = nn.Sequential(SeparableModule(512 + 48, 512), SeparableModule(512, 512))

    def forward(self, maps: list[Tensor]) -> Tensor:
        low = self.c1_bottleneck(maps[0])
        high = upsample(self.encode(maps), low.shape[2:])
        return self.conv_seg(self.sep_bottleneck(torch.cat([high, low], 1)))


class EncoderDecoder(nn.Module):
    """mmsegmentation's network of backbone, head and auxiliary head; the outputs are those of both heads, resized."""

    def __init__(self, backbone: nn.Module, head: nn.Module, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.decode_head = head
        self.auxiliary_head = MMFCNHead(1024, 256, classes, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.backbone(image)
        outputs = self.decode_head(maps), self.auxiliary_head(maps[:3])
        return upsample(outputs[0], image.shape[2:]), upsample(outputs[1], image.shape[2:])


# VainF/DeepLabV3Plus-Pytorch


class Separable(nn.Module):
    """VainF's separable convolution: two convolutions with nothing between."""

    def __init__(self, into: int, out: int, dilation: int = 1) -> None:
        super().__init__()
        depthwise = nn.Conv2d(into, into, 3, padding=dilation, dilation=dilation, groups=into, bias=False)
        self.body = nn.Sequential(depthwise, nn.Conv2d(into, out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def vainf_conv(into: int, out: int, dilation: int = 1, *, separable: bool) -> nn.Sequential:
    conv = Separable(into, out, dilation) if separable else conv_norm(into, out, 3, dilation=dilation)[0]
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU())


class PooledASPP(nn.Module):
    """ASPP of torchvision and VainF: branches in `convs`, image pooling the last."""

    def __init__(self, into: int, rates: Sequence[int], *, separable: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList([conv_norm_relu(into, 256)])
        self.convs.extend(vainf_conv(into, 256, rate, separable=separable) for rate in rates)
        self.convs.append(nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_norm(into, 256), nn.ReLU()))
        self.project = conv_norm_relu(5 * 256, 256)

    def forward(self, x: Tensor) -> Tensor:
        *branches, pooling = self.convs
        maps = [branch(x) for branch in branches]
        return self.project(torch.cat([*maps, upsample(pooling(x), x.shape[2:])], 1))


class VainFHead(nn.Module):
    """The head of VainF's DeepLabV3, or with `low_channels` of DeepLabV3+: the low-level features come first."""

    def __init__(self, into: int, low_channels: int, classes: int, stride: int, *, separable: bool) -> None:
        super().__init__()
        rates = (6, 12, 18) if stride == 16 else (12, 24, 36)
        aspp = PooledASPP(into, rates, separable=separable)
        if low_channels:
            self.project = conv_norm_relu(low_channels, 48)
            self.aspp = aspp
            self.classifier = nn.Sequential(*vainf_conv(304, 256, separable=separable), nn.Conv2d(256, classes, 1))
        else:
            self.classifier = nn.Sequential(
                aspp, *vainf_conv(256, 256, separable=separable), nn.Conv2d(256, classes, 1)
            )

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        if not hasattr(self, "project"):
            return self.classifier(high)
        low = self.project(low)
        return self.classifier(torch.cat([low, upsample(self.aspp(high), low.shape[2:])], 1))


class PaddedInvertedResidual(nn.Module):
    """VainF's inverted residual: its input is padded, its depthwise convolution is not."""

    def __init__(self, into: int, out: int, expansion: int, stride: int, dilation: int) -> None:
        super().__init__()
        hidden = into * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers.append(nn.Sequential(*conv_norm(into, hidden), nn.ReLU6()))
        depthwise = nn.Conv2d(hidden, hidden, 3, stride, 0, dilation, groups=hidden, bias=False)
        layers.append(nn.Sequential(depthwise, nn.BatchNorm2d(hidden), nn.ReLU6()))
        self.conv = nn.Sequential(*layers, *conv_norm(hidden, out))
        self.padding = (dilation,) * 4
        self.residual = stride == 1 and into == out

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(F.pad(x, self.padding))
        return x + y if self.residual else y


class PaddedMobileNetV2(nn.Module):
    """VainF's MobileNetV2, stored in two parts whose blocks are counted through."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, 32, 3, 2, 0, bias=False), nn.BatchNorm2d(32), nn.ReLU6())]
        table = (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        )
        into, current, dilation = 32, 2, 1
        for expansion, out, repeats, step in table:
            before, used = dilation, step
            if current == stride:
                used, dilation = 1, dilation * step
            else:
                current *= step
            for index in range(repeats):
                first = index == 0
                blocks.append(
                    PaddedInvertedResidual(into, out, expansion, used if first else 1, before if first else dilation)
                )
                into = out
        named = OrderedDict((str(index), block) for index, block in enumerate(blocks))
        self.low_level_features = nn.Sequential(OrderedDict(list(named.items())[:4]))
        self.high_level_features = nn.Sequential(OrderedDict(list(named.items())[4:]))

    def forward(self, image: Tensor) -> list[Tensor]:
        low = self.low_level_features(image)
        return [low, self.high_level_features(low)]


class VainFNetwork(nn.Module):
    """VainF's DeepLabV3 or DeepLabV3+."""

    def __init__(self, backbone: str, classes: int, stride: int, *, plus: bool, separable: bool = False) -> None:
        super().__init__()
        mobile = backbone == "mobilenet"
        self.backbone = PaddedMobileNetV2(stride) if mobile else PlainResNet(int(backbone[6:]), stride)
        low = (24 if mobile else 256) if plus else 0
        self.classifier = VainFHead(320 if mobile else 2048, low, classes, stride, separable=separable)

    def forward(self, image: Tensor) -> Tensor:
        maps = self.backbone(image)
        return upsample(self.classifier(maps[0], maps[-1]), image.shape[2:])


# kazuto1011/deeplab-pytorch


def caffe_conv(into: int, out: int, kernel: int, stride: int, dilation: int, relu: bool) -> nn.Sequential:
    conv, norm = conv_norm(into, out, kernel, stride, dilation)
    return nn.Sequential(OrderedDict([("conv", conv), ("bn", norm)] + [("relu", nn.ReLU())] * relu))


class CaffeBottleneck(nn.Module):
    """deeplab-pytorch's unit: the stride is on the first 1x1 convolution."""

    def __init__(self, into: int, out: int, stride: int, dilation: int, project: bool) -> None:
        super().__init__()
        self.reduce = caffe_conv(into, out // 4, 1, stride, 1, True)
        self.conv3x3 = caffe_conv(out // 4, out // 4, 3, 1, dilation, True)
        self.increase = caffe_conv(out // 4, out, 1, 1, 1, False)
        self.shortcut = caffe_conv(into, out, 1, stride, 1, False) if project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.increase(self.conv3x3(self.reduce(x))) + self.shortcut(x))


class SummedASPP(nn.Module):
    """deeplab-pytorch's ASPP of DeepLab v2."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        for index, rate in enumerate((6, 12, 18, 24)):
            self.add_module(f"c{index}", nn.Conv2d(2048, classes, 3, padding=rate, dilation=rate))

    def forward(self, x: Tensor) -> Tensor:
        return sum(branch(x) for branch in self.children())


class DeepLabPytorch(nn.Sequential):
    """deeplab-pytorch's DeepLab v2 on ResNet-101 at one scale, at the resolution of its scores."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        stem = OrderedDict(
            [("conv1", caffe_conv(3, 64, 7, 2, 1, True)), ("pool", nn.MaxPool2d(3, 2, 1, ceil_mode=True))]
        )
        self.add_module("layer1", nn.Sequential(stem))
        into = 64
        for stage, (stride, dilation) in enumerate(((1, 1), (2, 1), (1, 2), (1, 4))):
            out = 256 * 2**stage
            units = OrderedDict()
            for unit in range(UNITS[101][stage]):
                first = unit == 0
                units[f"block{unit + 1}"] = CaffeBottleneck(into, out, stride if first else 1, dilation, first)
                into = out
            self.add_module(f"layer{stage + 2}", nn.Sequential(units))
        self.add_module("aspp", SummedASPP(classes))


# CSAILVision/semantic-segmentation-pytorch


class CSAILEncoder(DilatedResNet):
    """CSAIL's dilated ResNet: three 3x3 convolutions of 64, 64 and 128 channels as its stem."""

    def __init__(self, depth: int) -> None:
        super().__init__(depth, 128, 8)
        self.conv1, self.bn1 = conv_norm(3, 64, 3, 2)
        self.conv2, self.bn2 = conv_norm(64, 64, 3)
        self.conv3, self.bn3 = conv_norm(64, 128, 3)

    def stem_of(self, x: Tensor) -> Tensor:
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = F.relu(norm(conv(x)))
        return x


class CSAILDecoder(nn.Module):
    """CSAIL's "ppm_deepsup" or "c1_deepsup" decoder; without `deepsup` the second output is missing."""

    def __init__(self, kind: str, classes: int, *, deepsup: bool) -> None:
        super().__init__()
        if kind == "ppm":
            self.ppm = nn.ModuleList(
                nn.Sequential(nn.AdaptiveAvgPool2d(bins), *conv_norm(2048, 512), nn.ReLU()) for bins in (1, 2, 3, 6)
            )
            self.conv_last = nn.Sequential(
                *conv_norm(4096, 512, 3), nn.ReLU(), nn.Dropout2d(0.1), nn.Conv2d(512, classes, 1)
            )
        else:
            self.cbr = conv_norm_relu(2048, 512, 3)
            self.conv_last = nn.Conv2d(512, classes, 1)
        if deepsup:
            self.cbr_deepsup = conv_norm_relu(1024, 512, 3)
            self.conv_last_deepsup = nn.Conv2d(512, classes, 1)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        x = maps[-1]
        if hasattr(self, "ppm"):
            scores = self.conv_last(torch.cat([x, *(upsample(pool(x), x.shape[2:]) for pool in self.ppm)], 1))
        else:
            scores = self.conv_last(self.cbr(x))
        second = [self.conv_last_deepsup(self.cbr_deepsup(maps[2]))] if hasattr(self, "cbr_deepsup") else []
        return [scores, *second]
