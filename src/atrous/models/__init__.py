"""The networks, one file per paper."""

from atrous.models import deeplab_v3, deeplab_v3_plus, fcn, segnet, unet  # noqa: F401  (they register themselves)
from atrous.models.base import MODELS, SegmentationModel

create_model = MODELS.create
list_models = MODELS.names

__all__ = ["MODELS", "SegmentationModel", "create_model", "list_models"]
