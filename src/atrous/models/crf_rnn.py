"""CRF-RNN: Conditional Random Fields as Recurrent Neural Networks (Zheng, Jayasumana, Romera-Paredes, Vineet, Su, Du,
Huang, Torr; ICCV 2015).

Mean-field inference in the fully connected CRF, unrolled as the last layer of FCN-8s and trained with it. Each
iteration filters the class probabilities by position and by color, weights both results per class, combines the classes
by a learned compatibility matrix, adds the unary terms and normalizes. There are five iterations in training and ten in
evaluation. The layer itself is `atrous.crf.CRFRNN`.

Differences: the released layer stores the per-class weights as matrices that are initialized to diagonal ones; here
they are vectors, as in the paper, and matrices with `weight_matrices=True`, for weights from Caffe. The released
demonstration code subtracts the mean of red from blue and vice versa; this is not reproduced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from atrous.backbones import Backbone
from atrous.card import Preprocessing
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


class ModelWithCRF(SegmentationModel):
    """Any network of this package followed by a CRF-RNN layer, trained end to end.

    The color kernel of the CRF is in units of 8-bit pixel values, so the image is multiplied by the standard deviation
    that preprocessing divided it by; the mean cancels in differences. This `std` is the card's, of this model or of
    its network (weights that are loaded or trained have a card), unless it is given; a model without a card takes
    that of `Preprocessing()`. The CRF uses the first three channels of the image; an image of one or two channels has
    its first repeated three times.

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W); `scores` are those of the network, before the CRF.
    """

    is_convertible = False  # the lattice of the CRF has no counterpart in other runtimes

    def __init__(self, network: SegmentationModel, *, std: Sequence[float] | None = None, **crf: Any) -> None:
        super().__init__()
        self.network = network
        self.num_classes = network.num_classes
        self.align_corners = network.align_corners
        self.crf = CRFRNN(network.num_classes, **crf)
        self._std = tuple(std) if std is not None else None

    @property
    def std(self) -> tuple[float, ...]:
        """The standard deviation that the input was divided by, in units of the 8-bit pixel: 1 for Caffe's networks."""
        if self._std is not None:
            return self._std
        card = self.card or self.network.card
        return (card.preprocessing if card is not None else Preprocessing()).std

    @property
    def output_stride(self) -> int:
        return self.network.output_stride

    def set_output_stride(self, output_stride: int) -> SegmentationModel:
        self.network.set_output_stride(output_stride)
        return self

    def possible_output_strides(self) -> list[int]:
        return self.network.possible_output_strides()

    def unused_parameters(self) -> list[nn.Parameter]:
        return self.network.unused_parameters()

    def whole_backbones(self) -> list[Backbone]:
        return self.network.whole_backbones()

    def head(self) -> Iterable[nn.Module]:
        return [self.crf, *self.network.head()]

    def parts(self) -> dict[str, list[nn.Parameter]]:
        kernels = {"crf.spatial": [self.crf.spatial_weights], "crf.bilateral": [self.crf.bilateral_weights]}
        return {**super().parts(), **kernels}

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
    std: Sequence[float] | None = None,
    training_iterations: int = 5,
    iterations: int = 10,
    weight_matrices: bool = False,
) -> ModelWithCRF:
    """Build FCN-8s with CRF-RNN; all upsampling but the last is learned, `width` scales the backbone's channels.

    `std`, by which the input was divided, is the card's unless it is given. `weight_matrices` weighs the kernels of the
    CRF by matrices of all pairs of classes, as in the release.
    """
    network = fcn_vgg16(
        finest=8,
        upsampling="learned",
        upsampling_bias=True,
        num_classes=num_classes,
        width=width,
        in_channels=in_channels,
        backbone_options=backbone_options,
    )
    crf = {"training_iterations": training_iterations, "iterations": iterations, "weight_matrices": weight_matrices}
    return ModelWithCRF(network, std=std, **crf)
