"""CRF-RNN: Conditional Random Fields as Recurrent Neural Networks (Zheng, Jayasumana, Romera-Paredes, Vineet, Su, Du,
Huang, Torr; ICCV 2015).

The mean field of the fully connected CRF, unrolled as the last layer of FCN-8s and trained with it: each iteration
filters the class probabilities over position and color, weighs both results per class, mixes the classes by a learned
compatibility, adds the unaries and normalizes. Five iterations in training, ten at test. The layer itself is
`atrous.crf.CRFRNN`.

What differs: the released layer stores the per-class weights as matrices that start diagonal, here they are the vectors
of the paper; its demonstration code subtracts the mean's red from blue and the reverse, which is not repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from atrous.crf import CRFRNN
from atrous.models.base import SegmentationModel, register_model
from atrous.models.fcn import fcn_vgg16
from atrous.registry import Paper

PAPER = Paper(
    title="Conditional Random Fields as Recurrent Neural Networks",
    authors="Zheng, Jayasumana, Romera-Paredes, Vineet, Su, Du, Huang, Torr",
    year=2015,
    arxiv="1502.03240",
)


class CRFRecurrent(SegmentationModel):
    """Any network of this package, refined by a CRF that is trained with it.

    The CRF looks at colors in steps of an 8-bit pixel. Of the preprocessing it needs to know the `std` only (in units
    of the pixel, 1 for Caffe's, which divides by nothing): the mean cancels in differences. Images of other than three
    channels show it their first three, the only one thrice.

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W); `scores` are the network's, before the CRF.
    """

    def __init__(self, network: SegmentationModel, *, std: Sequence[float] = (1.0, 1.0, 1.0), **crf: Any) -> None:
        super().__init__()
        self.network = network
        self.num_classes = network.num_classes
        self.align_corners = network.align_corners
        self.crf = CRFRNN(network.num_classes, **crf)
        self.std = tuple(std)

    @property
    def output_stride(self) -> int:
        return self.network.output_stride

    def set_output_stride(self, output_stride: int) -> SegmentationModel:
        self.network.set_output_stride(output_stride)
        return self

    def possible_output_strides(self) -> list[int]:
        return self.network.possible_output_strides()

    def head(self) -> Iterable[nn.Module]:
        return [self.crf, *self.network.head()]

    def scores(self, image: Tensor) -> Tensor:
        return self.network.scores(image)

    def forward(self, image: Tensor) -> Tensor:
        colors = image[:, :3] if image.shape[1] >= 3 else image[:, :1].expand(-1, 3, -1, -1)
        return self.crf(self.network(image), colors * image.new_tensor(self.std).view(3, 1, 1))


@register_model("crf_rnn.vgg16", PAPER)
def crf_rnn(
    *,
    num_classes: int = 21,
    width: float = 1.0,
    in_channels: int = 3,
    backbone_options: Mapping[str, Any] | None = None,
    std: Sequence[float] = (1.0, 1.0, 1.0),
    training_iterations: int = 5,
    iterations: int = 10,
) -> CRFRecurrent:
    """On FCN-8s, whose upsampling but for the last is learned; `width` scales all channels of its backbone."""
    network = fcn_vgg16(
        finest=8,
        upsampling="learned",
        upsampling_bias=True,
        num_classes=num_classes,
        width=width,
        in_channels=in_channels,
        backbone_options=backbone_options,
    )
    return CRFRecurrent(network, std=std, training_iterations=training_iterations, iterations=iterations)
