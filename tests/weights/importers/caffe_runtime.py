"""A miniature of Caffe: layers are computed as Caffe does as they are added, and written to a `.caffemodel` file.

Source: BVLC/caffe, `src/caffe/layers/*.cpp` for the arithmetic and `caffe.proto` for the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from atrous.weights.importers.caffe_file import Layer
from tests.weights.importers.protobuf_writer import float_field, message, packed_floats, varint, varint_field

V1_TYPES = {"Convolution": 4, "Deconvolution": 39, "Pooling": 17, "ReLU": 18, "Eltwise": 25, "Data": 5}


@dataclass
class Net:
    """A network of random values; with `shapes_only` its tensors are on the "meta" device and take no memory.

    `width` multiplies the channels that a definition passes through `c`. `v1` writes layers of the first generation,
    whose dilation is called `hole` and whose arrays always have four dimensions.
    """

    width: float = 1 / 16
    shapes_only: bool = False
    v1: bool = False
    states_geometry: bool = True
    layers: list[Layer] = field(default_factory=list)
    encoded: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def image(self, height: int, width: int) -> Tensor:
        return self.random(1, 3, height, width)

    def random(self, *shape: int, mean: float = 0.0, std: float = 1.0) -> Tensor:
        if self.shapes_only:
            return torch.empty(shape, device="meta")
        return torch.randn(shape, generator=self.generator) * std + mean

    def positive(self, *shape: int) -> Tensor:
        return self.random(*shape).abs() + 0.5

    def c(self, channels: int) -> int:
        return max(4, round(channels * self.width))

    def conv(
        self,
        name: str,
        x: Tensor,
        out: int,
        kernel: int,
        *,
        pad: int = 0,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = True,
    ) -> Tensor:
        fan_in = x.shape[1] * kernel * kernel
        weight = self.random(out, x.shape[1], kernel, kernel, std=(2 / fan_in) ** 0.5)
        blobs = [weight, self.random(out, std=0.1)] if bias else [weight]
        self.add(name, "Convolution", blobs, kernel_size=kernel, pad=pad, stride=stride, dilation=dilation)
        return F.conv2d(x, weight, blobs[1] if bias else None, stride, pad, dilation)

    def deconv(
        self, name: str, x: Tensor, kernel: int, stride: int, *, pad: int = 0, group: int = 1, bias: bool = False
    ) -> Tensor:
        channels = x.shape[1]
        weight = self.random(channels, channels // group, kernel, kernel, std=1 / (channels // group * kernel))
        blobs = [weight, self.random(channels, std=0.1)] if bias else [weight]
        self.add(name, "Deconvolution", blobs, kernel_size=kernel, pad=pad, stride=stride)
        return F.conv_transpose2d(x, weight, blobs[1] if bias else None, stride, pad, groups=group)

    def pool(self, name: str, x: Tensor, kernel: int, stride: int, pad: int = 0, *, average: bool = False) -> Tensor:
        self.add(name, "Pooling", [], kernel_size=kernel, pad=pad, stride=stride)
        pooling = F.avg_pool2d if average else F.max_pool2d
        return pooling(x, kernel, stride, pad, ceil_mode=True)

    def relu(self, x: Tensor) -> Tensor:
        self.add("relu", "ReLU", [])
        return x.relu()

    def batch_norm(self, name: str, scale: str, x: Tensor, *, eps: float = 1e-5) -> Tensor:
        """`BatchNorm`, whose sums are divided by their weight, and `Scale`."""
        channels = x.shape[1]
        mean, variance, factor = self.random(channels), self.positive(channels), self.positive(1)
        self.add(name, "BatchNorm", [mean * factor, variance * factor, factor], eps=eps)
        weight, bias = 0.3 * self.positive(channels), self.random(channels, std=0.1)
        self.add(scale, "Scale", [weight, bias])
        return _affine((x - mean[:, None, None]) / (variance + eps).sqrt()[:, None, None], weight, bias)

    def slope_norm(self, name: str, x: Tensor) -> Tensor:
        """PSPNet's `BN`."""
        channels = x.shape[1]
        slope, bias = 0.3 * self.positive(channels), self.random(channels, std=0.1)
        mean, variance = self.random(channels), self.positive(channels)
        self.add(name, "BN", [blob.reshape(1, -1, 1, 1) for blob in (slope, bias, mean, variance)])
        return _affine((x - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None], slope, bias)

    def folded_norm(self, name: str, x: Tensor) -> Tensor:
        """SegNet's `BN` for inference."""
        scale, shift = self.positive(x.shape[1]), self.random(x.shape[1], std=0.1)
        self.add(name, "BN", [scale.reshape(1, -1, 1, 1), shift.reshape(1, -1, 1, 1)])
        return _affine(x, scale, shift)

    def add(self, name: str, kind: str, blobs: list[Tensor], *, eps: float | None = None, **geometry: int) -> None:
        """Append a layer, encoded as Caffe does and as the importer's reader returns it."""
        arrays = tuple(np.broadcast_to(np.float32(0.5), b.shape) if b.is_meta else b.numpy() for b in blobs)
        read = {key: value for key, value in geometry.items() if key != "pad" and (key != "dilation" or value > 1)}
        self.layers.append(Layer(name, "" if self.v1 else kind, arrays, read if self.states_geometry else {}, eps))
        if self.shapes_only:
            return
        encoded = [self._encode_blob(array) for array in arrays]
        parameters = self._encode_geometry(geometry) if self.states_geometry else b""
        convolves = "onvolution" in kind
        if self.v1:
            content = message(4, name.encode()) + varint_field(5, V1_TYPES[kind])
            content += b"".join(message(6, blob) for blob in encoded)
            content += message(10 if convolves else 19, parameters) if parameters else b""
            self.encoded.append(message(2, message(2, b"data") + content))
            return
        content = message(1, name.encode()) + message(2, kind.encode()) + message(3, b"data") + varint_field(10, 1)
        content += b"".join(message(7, blob) for blob in encoded)
        content += message(106 if convolves else 121, parameters) if parameters else b""
        content += message(139, float_field(3, eps)) if eps is not None else b""
        self.encoded.append(message(100, content))

    def write(self, path: Path) -> Path:
        path.write_bytes(message(1, b"net") + b"".join(self.encoded))
        return path

    def _encode_blob(self, array: np.ndarray) -> bytes:
        if not self.v1:
            shape = message(7, message(1, b"".join(varint(size) for size in array.shape)))
            return packed_floats(5, array) + shape
        sizes = (1,) * (4 - array.ndim) + array.shape
        return b"".join(varint_field(n, size) for n, size in enumerate(sizes, 1)) + packed_floats(5, array)

    def _encode_geometry(self, geometry: dict[str, int]) -> bytes:
        pooling = "dilation" not in geometry and "stride" in geometry and "out" not in geometry
        numbers = {"pad": 3, "kernel_size": 4, "stride": 6, "dilation": 17 if self.v1 else 18}
        if pooling and not self.layers[-1].blobs:
            numbers = {"kernel_size": 2, "stride": 3, "pad": 4}
        defaults = {"pad": 0, "stride": 1, "dilation": 1}
        return b"".join(
            varint_field(numbers[key], value) for key, value in geometry.items() if value != defaults.get(key)
        )


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x * weight[:, None, None] + bias[:, None, None]


def crop(x: Tensor, like: Tensor, offset: int) -> Tensor:
    """`Crop` along height and width."""
    height, width = like.shape[2:]
    return x[:, :, offset : offset + height, offset : offset + width]


def interp(x: Tensor, zoom: int) -> Tensor:
    """`Interp` with a zoom factor."""
    height, width = ((n - 1) * zoom + 1 for n in x.shape[2:])
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=True)
