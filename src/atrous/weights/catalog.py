"""Weights released by others: where to download them, their license, checksums and published figures.

Sources: TensorFlow's DeepLab model zoo (research/deeplab/g3doc/model_zoo.md of tensorflow/models), torchvision's
`*_Weights` of `models/segmentation`, the model pages of Hugging Face, `configs/*/metafile.yaml` of mmsegmentation, the
README of kazuto1011/deeplab-pytorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from atrous.card import Card, Measurement


@dataclass(frozen=True)
class Release:
    """A file of weights that another project released."""

    name: str
    """The id in this package: architecture.backbone.tag."""
    url: str
    """The address it is downloaded from."""
    sha256: str
    """The checksum, or as much of its beginning as the publisher tells. If the publisher tells none it is empty: the
    checksum of the first download is remembered, see `weights.download`."""
    megabytes: float
    """The size of the file; about, where the publisher does not tell."""
    description: str
    """Publisher, data set and input size, for `atrous weights`."""
    license: str = "unknown"
    """The license that the publisher states."""
    trained_on: str = ""
    """The training data, where the file itself does not tell."""
    figures: tuple[Measurement, ...] = ()
    """The figures that the publisher reports."""
    file_name: str = ""
    """The name of the file on this machine, where the last part of the address is not distinctive."""

    @property
    def file(self) -> str:
        """The name of the file, by which folders are searched for it."""
        return self.file_name or self.url.rsplit("/", 1)[-1]

    def complete(self, card: Card) -> Card:
        """Add to an imported card what the file itself does not tell: publisher, license, training data, figures."""
        update = {
            "source": "; ".join(filter(None, (f"{self.description}: {self.url}", card.source))),
            "license": self.license if card.license == "unknown" else card.license,
            "trained_on": self.trained_on or card.trained_on,
            "measured": (*card.measured, *self.figures),
        }
        return card.model_copy(update=update)


def find_release(path: Path) -> Release | None:
    """Find the release that a file is, by its name; `find_weights` checks its checksum."""
    return next((release for release in RELEASES.values() if release.file == path.name), None)


def _published(name: str, value: float, data: str) -> Measurement:
    return Measurement(name=name, value=value, data=data, published=True)


_TENSORFLOW_LITE = "https://storage.googleapis.com/download.tensorflow.org/models/tflite/gpu"
_CORAL = "https://raw.githubusercontent.com/google-coral/test_data/master"
_TORCHVISION = "https://download.pytorch.org/models"
_ZOO = "https://storage.googleapis.com/download.tensorflow.org/models"
"""The bucket behind the zoo's http://download.tensorflow.org/models, through HTTPS."""
_HUGGING_FACE = "https://huggingface.co"
_OPENMMLAB = "https://download.openmmlab.com/mmsegmentation/v0.5"
_KAZUTO1011 = "https://github.com/kazuto1011/deeplab-pytorch/releases/download/v1.0"

_VOC_TRAINAUG = "ImageNet, COCO, PASCAL VOC 2012 trainaug"
_VOC_TRAINVAL = "ImageNet, COCO, PASCAL VOC 2012 trainaug and trainval"
_CITYSCAPES = "Cityscapes train, fine annotations"
_SINGLE = "output stride 16, one scale"
_SINGLE_8 = "output stride 8, one scale"
_MULTI = "output stride 8, scales 0.5 to 1.75, flipped"
_MULTI_CITYSCAPES = "output stride 8, scales 0.75 to 1.25, flipped"


def _zoo(
    name: str, file: str, megabytes: float, data: str, trained_on: str, *figures: tuple[str, float, str]
) -> Release:
    """Describe a checkpoint of TensorFlow's model zoo, which gives no checksums."""
    return Release(
        name,
        f"{_ZOO}/{file}.tar.gz",
        "",
        megabytes,
        f"TensorFlow's model zoo, {data}",
        license="Apache-2.0",
        trained_on=trained_on,
        figures=tuple(_published(*figure) for figure in figures),
    )


def _torchvision(name: str, file: str, megabytes: float, network: str, miou: float, accuracy: float) -> Release:
    """Describe weights of torchvision, whose names end in the beginning of their SHA-256."""
    data = "COCO val2017, VOC classes"
    return Release(
        f"{name}.coco_with_voc_labels",
        f"{_TORCHVISION}/{file}.pth",
        file.rpartition("-")[2],
        megabytes,
        f"torchvision's {network}, COCO images with the 21 VOC classes",
        license="BSD-3-Clause",
        trained_on="COCO train2017, images with VOC classes",
        figures=(_published("mIoU", miou, data), _published("pixel accuracy", accuracy, data)),
    )


def _mmsegmentation(name: str, config: str, date_and_hash: str, megabytes: float, *miou: float) -> Release:
    """Describe weights of mmsegmentation for Cityscapes, whose names end in the beginning of their SHA-256."""
    architecture, _, _ = config.partition("_")
    data = "Cityscapes val, output stride 8"
    single, several = miou
    return Release(
        f"{name}.cityscapes_mmsegmentation",
        f"{_OPENMMLAB}/{architecture}/{config}/{config}_{date_and_hash}.pth",
        date_and_hash.rpartition("-")[2],
        megabytes,
        "mmsegmentation, Cityscapes, trained on crops of 512x1024",
        license="Apache-2.0",
        trained_on=f"ImageNet, {_CITYSCAPES}",
        figures=(
            _published("mIoU", single, f"{data}, one scale"),
            _published("mIoU", several, f"{data}, several scales, flipped"),
        ),
    )


RELEASES = {
    release.name: release
    for release in (
        Release(
            "deeplab_v3.mobilenet_v2_x0.5.voc",
            f"{_TENSORFLOW_LITE}/deeplabv3_257_mv_gpu.tflite",
            "68a539782c2c6a72f8aac3724600124a85ed977162b44e84cbae5db717c933c6",
            2.8,
            "TensorFlow's DeepLab v3 for phones, VOC, 257x257",
            license="Apache-2.0",
        ),
        Release(
            "deeplab_v3.mobilenet_v2.voc",
            f"{_CORAL}/deeplabv3_mnv2_pascal_quant.tflite",
            "350af47fd346ea6d74b58833a351f583ba860e9806ec5bd292ff8d8f1f249398",
            2.2,
            "Coral's DeepLab v3, VOC, trained with 8-bit quantization, 513x513",
            license="Apache-2.0",
        ),
        _zoo(
            "deeplab_v3.mobilenet_v2_x0.5.voc_trainaug",
            "deeplabv3_mnv2_dm05_pascal_trainaug_2018_10_01",
            7.6,
            "VOC, 513x513",
            _VOC_TRAINAUG,
            ("mIoU", 70.19, f"VOC 2012 val, {_SINGLE}"),
        ),
        _zoo(
            "deeplab_v3.mobilenet_v2_x0.5.voc_trainval",
            "deeplabv3_mnv2_dm05_pascal_trainval_2018_10_01",
            7.6,
            "VOC with val, 513x513",
            _VOC_TRAINVAL,
            ("mIoU", 71.83, f"VOC 2012 test, {_SINGLE_8}"),
        ),
        _zoo(
            "deeplab_v3.mobilenet_v2.voc_trainaug",
            "deeplabv3_mnv2_pascal_train_aug_2018_01_29",
            23,
            "VOC, 513x513",
            _VOC_TRAINAUG,
            ("mIoU", 75.32, f"VOC 2012 val, {_SINGLE}"),
            ("mIoU", 77.33, f"VOC 2012 val, {_MULTI}"),
        ),
        _zoo(
            "deeplab_v3.mobilenet_v2.voc_trainval",
            "deeplabv3_mnv2_pascal_trainval_2018_01_29",
            23,
            "VOC with val, 513x513",
            _VOC_TRAINVAL,
            ("mIoU", 80.25, f"VOC 2012 test, {_MULTI}"),
        ),
        _zoo(
            "deeplab_v3_plus.xception65.voc_trainaug",
            "deeplabv3_pascal_train_aug_2018_01_04",
            439,
            "VOC, 513x513",
            _VOC_TRAINAUG,
            ("mIoU", 82.20, f"VOC 2012 val, {_SINGLE}"),
            ("mIoU", 83.58, f"VOC 2012 val, {_MULTI}"),
        ),
        _zoo(
            "deeplab_v3_plus.xception65.voc_trainval",
            "deeplabv3_pascal_trainval_2018_01_04",
            439,
            "VOC with val, 513x513",
            _VOC_TRAINVAL,
            ("mIoU", 87.80, f"VOC 2012 test, {_MULTI}"),
        ),
        _zoo(
            "deeplab_v3.mobilenet_v2.cityscapes",
            "deeplabv3_mnv2_cityscapes_train_2018_02_05",
            23,
            "Cityscapes, 1025x2049",
            f"ImageNet, COCO, {_CITYSCAPES}",
            ("mIoU", 70.71, f"Cityscapes val, {_SINGLE}"),
            ("mIoU", 73.57, f"Cityscapes val, {_MULTI_CITYSCAPES}"),
        ),
        _zoo(
            "deeplab_v3_plus.xception65.cityscapes",
            "deeplabv3_cityscapes_train_2018_02_06",
            439,
            "Cityscapes, 1025x2049",
            f"ImageNet, {_CITYSCAPES}",
            ("mIoU", 78.79, f"Cityscapes val, {_SINGLE}"),
            ("mIoU", 80.42, f"Cityscapes val, {_MULTI_CITYSCAPES}"),
        ),
        _zoo(
            "deeplab_v3_plus.mobilenet_v2.ade20k",
            "deeplabv3_mnv2_ade20k_train_2018_12_03",
            24.8,
            "ADE20K, longer side 257",
            "ImageNet, ADE20K train",
            ("mIoU", 32.04, f"ADE20K val, {_SINGLE}"),
            ("pixel accuracy", 75.41, f"ADE20K val, {_SINGLE}"),
        ),
        _zoo(
            "deeplab_v3_plus.xception65.ade20k",
            "deeplabv3_xception_ade20k_train_2018_05_29",
            439,
            "ADE20K, longer side 513",
            "ImageNet, ADE20K train",
            ("mIoU", 45.65, f"ADE20K val, {_MULTI}"),
            ("pixel accuracy", 82.52, f"ADE20K val, {_MULTI}"),
        ),
        _torchvision("deeplab_v3.resnet50", "deeplabv3_resnet50_coco-cd0a2569", 160.5, "DeepLab v3", 66.4, 92.4),
        _torchvision("deeplab_v3.resnet101", "deeplabv3_resnet101_coco-586e9e4e", 233.2, "DeepLab v3", 67.4, 92.4),
        _torchvision(
            "deeplab_v3.mobilenet_v3_large", "deeplabv3_mobilenet_v3_large-fc3c493d", 42.3, "DeepLab v3", 60.3, 91.2
        ),
        _torchvision("lraspp.mobilenet_v3_large", "lraspp_mobilenet_v3_large-d234d4ea", 12.5, "LR-ASPP", 57.9, 91.2),
        _torchvision("fcn.resnet50", "fcn_resnet50_coco-1167a1af", 135.0, "FCN", 60.5, 91.4),
        _torchvision("fcn.resnet101", "fcn_resnet101_coco-7ecb50ca", 207.7, "FCN", 63.7, 91.9),
        Release(
            "deeplab_v3.mobilenet_v2.voc_huggingface",
            f"{_HUGGING_FACE}/google/deeplabv3_mobilenet_v2_1.0_513/resolve/main/pytorch_model.bin",
            "",
            10.4,
            "Hugging Face's copy of TensorFlow's DeepLab v3, VOC, 513x513",
            license="other (see the model's page)",
            trained_on=_VOC_TRAINAUG,
            file_name="deeplabv3_mobilenet_v2_1.0_513.bin",
        ),
        _mmsegmentation(
            "deeplab_v3_plus.resnet50",
            "deeplabv3plus_r50-d8_512x1024_80k_cityscapes",
            "20200606_114049-f9fb496d",
            175,
            80.09,
            81.13,
        ),
        _mmsegmentation(
            "deeplab_v3_plus.resnet101",
            "deeplabv3plus_r101-d8_512x1024_80k_cityscapes",
            "20200606_114143-068fcfe9",
            251,
            80.97,
            82.03,
        ),
        _mmsegmentation(
            "pspnet.resnet50",
            "pspnet_r50-d8_512x1024_80k_cityscapes",
            "20200606_112131-2376f12b",
            196,
            78.55,
            79.79,
        ),
        _mmsegmentation(
            "pspnet.resnet101",
            "pspnet_r101-d8_512x1024_80k_cityscapes",
            "20200606_112211-e1e1100f",
            272,
            79.76,
            81.01,
        ),
        Release(
            "deeplab_v2.resnet101.voc_kazuto1011",
            f"{_KAZUTO1011}/deeplabv2_resnet101_msc-vocaug-20000.pth",
            "",
            176,
            "kazuto1011's DeepLab v2, VOC, 513x513",
            license="MIT",
            trained_on="COCO, PASCAL VOC 2012 trainaug",
            figures=(
                _published("mIoU", 76.65, "VOC 2012 val, three scales, without CRF"),
                _published("pixel accuracy", 94.64, "VOC 2012 val, three scales, without CRF"),
            ),
        ),
        Release(
            "deeplab_v2.resnet101.coco_stuff_kazuto1011",
            f"{_KAZUTO1011}/deeplabv2_resnet101_msc-cocostuff164k-100000.pth",
            "",
            224,
            "kazuto1011's DeepLab v2, COCO-Stuff 164k with 182 classes",
            license="MIT",
            trained_on="COCO, COCO-Stuff 164k train",
            figures=(
                _published("mIoU", 39.1, "COCO-Stuff 164k val, three scales, without CRF"),
                _published("pixel accuracy", 66.8, "COCO-Stuff 164k val, three scales, without CRF"),
            ),
        ),
    )
}
