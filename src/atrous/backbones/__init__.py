"""Image classifiers whose features segmentation networks are built on."""

from atrous.backbones import mobilenet_v2, resnet, vgg  # noqa: F401  (they register themselves)
from atrous.backbones.base import BACKBONES, Backbone

create_backbone = BACKBONES.create
list_backbones = BACKBONES.names

__all__ = ["BACKBONES", "Backbone", "create_backbone", "list_backbones"]
