"""Backbones: image classifiers whose feature maps segmentation networks use, one file per paper."""

from atrous.backbones import (  # noqa: F401  (they register themselves)
    convnext,
    efficientnet_lite,
    mobilenet_v2,
    mobilenet_v3,
    resnet,
    timm,
    vgg,
    xception,
)
from atrous.backbones.base import BACKBONES, Backbone, Pretrained, create_backbone, registered_pretrained

list_backbones = BACKBONES.names

__all__ = ["BACKBONES", "Backbone", "Pretrained", "create_backbone", "list_backbones", "registered_pretrained"]
