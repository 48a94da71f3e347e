"""Weights released by others: where to download them, and their checksums."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Release:
    """A file of weights that another project released."""

    name: str
    """The id in this package: architecture.backbone.tag."""
    url: str
    """The address it is downloaded from."""
    sha256: str
    """The checksum, or as much of its beginning as the publisher tells."""
    megabytes: float
    """The size of the file."""
    description: str
    """Publisher, data set and input size, for `atrous weights`."""

    @property
    def file(self) -> str:
        """The name of the file, by which folders are searched for it."""
        return self.url.rsplit("/", 1)[-1]


_TENSORFLOW = "https://storage.googleapis.com/download.tensorflow.org/models/tflite/gpu"
_CORAL = "https://raw.githubusercontent.com/google-coral/test_data/master"
_TORCHVISION = "https://download.pytorch.org/models"

RELEASES = {
    release.name: release
    for release in (
        Release(
            "deeplab_v3.mobilenet_v2_x0.5.voc",
            f"{_TENSORFLOW}/deeplabv3_257_mv_gpu.tflite",
            "68a539782c2c6a72f8aac3724600124a85ed977162b44e84cbae5db717c933c6",
            2.8,
            "TensorFlow's DeepLab v3 for phones, VOC, 257x257",
        ),
        Release(
            "deeplab_v3.mobilenet_v2.voc",
            f"{_CORAL}/deeplabv3_mnv2_pascal_quant.tflite",
            "350af47fd346ea6d74b58833a351f583ba860e9806ec5bd292ff8d8f1f249398",
            2.2,
            "Coral's DeepLab v3, VOC, trained with 8-bit quantization, 513x513",
        ),
        Release(
            "deeplab_v3.resnet50.coco_with_voc_labels",
            f"{_TORCHVISION}/deeplabv3_resnet50_coco-cd0a2569.pth",
            "cd0a2569",
            160.5,
            "torchvision's DeepLab v3, COCO images with the 21 VOC classes",
        ),
        Release(
            "deeplab_v3.resnet101.coco_with_voc_labels",
            f"{_TORCHVISION}/deeplabv3_resnet101_coco-586e9e4e.pth",
            "586e9e4e",
            233.2,
            "torchvision's DeepLab v3, COCO images with the 21 VOC classes",
        ),
        Release(
            "deeplab_v3.mobilenet_v3_large.coco_with_voc_labels",
            f"{_TORCHVISION}/deeplabv3_mobilenet_v3_large-fc3c493d.pth",
            "fc3c493d",
            42.3,
            "torchvision's DeepLab v3, COCO images with the 21 VOC classes",
        ),
        Release(
            "lraspp.mobilenet_v3_large.coco_with_voc_labels",
            f"{_TORCHVISION}/lraspp_mobilenet_v3_large-d234d4ea.pth",
            "d234d4ea",
            12.5,
            "torchvision's LR-ASPP, COCO images with the 21 VOC classes",
        ),
    )
}
