"""Segmentation networks, one file per paper."""

from atrous.models import (  # noqa: F401  (they register themselves)
    crf_rnn,
    deeplab_v1,
    deeplab_v2,
    deeplab_v3,
    deeplab_v3_plus,
    dilated,
    fcn,
    gcn,
    lraspp,
    pspnet,
    refinenet,
    segnet,
    unet,
)
from atrous.models.base import MODELS, SegmentationModel, build_from_card

create_model = MODELS.create
list_models = MODELS.names

__all__ = ["MODELS", "SegmentationModel", "build_from_card", "create_model", "list_models"]
