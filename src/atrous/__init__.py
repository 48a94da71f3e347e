"""Semantic segmentation in PyTorch: the DeepLab networks, FCN, U-Net, PSPNet and others, and the fully connected CRF.

Segment an image with pretrained weights, which are downloaded if necessary:

    >>> import atrous
    >>> segmenter = atrous.Segmenter.load("deeplab_v3_plus.efficientnet_lite0.camvid")
    >>> result = segmenter("street.jpg")          # a path, bytes, open file, PIL image, array or tensor
    >>> result.class_fractions()
    {'road': 0.31, 'building': 0.24, ...}
    >>> result.save("out/street.png")             # the labels, and an overlay next to them

Build a network, or load one, as a `torch.nn.Module` that maps images (N, 3, H, W) to logits (N, K, H, W):

    >>> model = atrous.create_model("deeplab_v3_plus.xception65", num_classes=21)
    >>> model = atrous.load("deeplab_v3.mobilenet_v2.voc")
    >>> model.freeze("backbone")                  # train the rest

Compute the features of an ImageNet classifier:

    >>> backbone = atrous.create_backbone("resnet50", pretrained=True)
    >>> maps = backbone(images)                   # one per stage, see backbone.channels and backbone.strides

`list_models()` and `list_weights()` list the ids. The subpackages hold the rest: `atrous.data` (data sets, transforms),
`atrous.training`, `atrous.evaluation` (mIoU and other metrics), `atrous.inference` (test-time augmentation, tiling,
videos), `atrous.crf`, `atrous.models`, `atrous.backbones` and `atrous.layers`. The same functions are on the command
line: `atrous --help`.

Invalid input raises `AtrousError`, whose message says what is wrong, what was expected and what to do. Names are
imported when they are first used, so `import atrous` alone does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atrous.lazy import lazy_names

__version__ = "0.1.0"

__all__ = [
    "AtrousError",
    "Segmentation",
    "Segmenter",
    "create_backbone",
    "create_model",
    "list_models",
    "list_weights",
    "load",
]

if TYPE_CHECKING:
    from atrous.errors import AtrousError
    from atrous.inference import Segmentation, Segmenter
    from atrous.models import list_models
    from atrous.weights import create_backbone, create_model, list_weights, load


__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AtrousError": ".errors",
        "Segmentation": ".inference",
        "Segmenter": ".inference",
        "create_backbone": ".weights",
        "create_model": ".weights",
        "list_models": ".models",
        "list_weights": ".weights",
        "load": ".weights",
    },
)
