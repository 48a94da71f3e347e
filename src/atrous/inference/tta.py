"""Test-time augmentation: which scales, mirror images and crops of an image are fused, and how, in each paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from atrous.errors import AtrousError, did_you_mean


@dataclass(frozen=True)
class TTAConfig:
    """Test-time augmentation: the views of an image that the network is run on, and how their scores are fused.

    A view is the network's input at one of `scales`, mirrored from left to right as well with `flip`. `merge` is one of

    - `"mean_softmax"`: the mean of the softmax of each view's scores, resized to the network's input;
    - `"mean_logits"`: the mean of the resized scores;
    - `"max_logits"`: the largest score, on the grid of the first view's scores.

    `crop` selects the protocol of PSPNet instead: the longer side of the image becomes (`long_side` - 1) times each
    scale, plus 1, windows of `crop` pixels are moved by two thirds of their size, and each pixel's probability is the
    mean over the windows that cover it. In a window the scores of its mirror image are added before the softmax,
    whatever `merge`.

    Raises: `AtrousError` for scales that are not positive, or a crop without a longer side.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    merge: Literal["mean_softmax", "mean_logits", "max_logits"] = "mean_softmax"
    crop: int | None = None
    long_side: int | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise AtrousError(f"scales {self.scales}: one or more, all positive, are expected.")
        if (self.crop is None) != (self.long_side is None) or min(self.crop or 1, self.long_side or 1) < 1:
            raise AtrousError(f"crop {self.crop} and long_side {self.long_side}: give both, positive, or neither.")

    @property
    def num_views(self) -> int:
        """The number of forward passes for an image that is not cropped."""
        return len(self.scales) * (1 + self.flip)


_SIX = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)

PRESETS = {
    "none": TTAConfig(source="scale 1 alone: FCN, SegNet, U-Net, Dilated, DeepLab v1"),
    "flip": TTAConfig(flip=True, source="scale 1 and its mirror image"),
    "v2": TTAConfig((1.0, 0.75, 0.5), merge="max_logits", source="DeepLab v2, section 4.1.2 (MSC)"),
    "v3": TTAConfig(_SIX, flip=True, source="DeepLab v3, section 4.1"),
    "v3_plus": TTAConfig(_SIX, flip=True, source="DeepLab v3+, section 4"),
    "cityscapes": TTAConfig((0.75, 1.0, 1.25), flip=True, source="TensorFlow DeepLab's model zoo, Cityscapes"),
    "refinenet": TTAConfig((0.4, 0.6, 0.8, 1.0, 1.2), source="RefineNet, released demo_predict_mscale_voc.m"),
    "pspnet": TTAConfig(_SIX, flip=True, crop=473, long_side=513, source="PSPNet, released test code, VOC and ADE20K"),
    "pspnet_single": TTAConfig(flip=True, crop=473, long_side=513, source="PSPNet, released test code, one scale"),
    "pspnet_cityscapes": TTAConfig(
        flip=True, crop=713, long_side=2049, source="PSPNet, released test code, Cityscapes, one scale"
    ),
    "pspnet_cityscapes_multi": TTAConfig(
        _SIX, flip=True, crop=713, long_side=2049, source="PSPNet, released test code, Cityscapes"
    ),
}


def tta_preset(tta: str | TTAConfig) -> TTAConfig:
    """Look up a test-time augmentation by the name of its preset; a `TTAConfig` is returned as it is.

    Raises: `AtrousError` for an unknown name.
    """
    if isinstance(tta, TTAConfig):
        return tta
    if tta not in PRESETS:
        raise AtrousError(
            f"There is no test-time augmentation '{tta}'.{did_you_mean(tta, PRESETS)} Known: {', '.join(PRESETS)}."
        )
    return PRESETS[tta]
