"""Parameters and multiply-adds, against independent counts and published figures."""

from __future__ import annotations

import pytest
import torch

from atrous import create_model
from atrous.analysis.counts import count_parameters, multiply_adds
from atrous.backbones import create_backbone

TORCHVISION = {"refine": True, "multi_grid": (1, 1, 1), "output_stride": 8}
TORCHVISION_MOBILE = {
    "refine": True,
    "atrous_rates": (12, 24, 36),
    "auxiliary": True,
    "auxiliary_map": 1,
    "backbone_options": {"layout": "torchvision"},
}
FULL_ASPP = {"atrous_rates": (6, 12, 18)}
CLASSIFIER = {"num_classes": 1000}
DEEP_STEM = {"backbone_options": {"stem": "deep"}}

# The modules of GCN are counted in test_gcn.py. Not included, because no paper here uses its backbone: DeepLab v3 on
# MobileNetV1 with the full pyramid (11,145,301 parameters, 12.761 G), a row of MobileNetV2's table 7.

BACKBONES = [
    ("resnet50", {}, 23_508_032),
    ("resnet50", CLASSIFIER, 25_557_032),  # published by torchvision, as the other classifiers
    ("resnet101", {}, 42_500_160),
    ("resnet101", CLASSIFIER, 44_549_160),
    ("resnet152", {}, 58_143_808),
    ("resnet152", CLASSIFIER, 60_192_808),
    ("mobilenet_v2", {}, 1_811_712),
    ("mobilenet_v2", CLASSIFIER, 3_504_872),
    ("xception41", {}, 24_920_560),
    ("xception65", {}, 37_867_312),
    ("xception71", {}, 40_289_736),
    ("vgg16", {}, 14_714_688),
    ("vgg16", CLASSIFIER, 138_357_544),
    ("vgg16_bn", {}, 14_723_136),
    ("vgg16_bn", CLASSIFIER, 138_365_992),
    ("convnext_tiny", CLASSIFIER, 28_589_128),
    ("mobilenet_v3_large", CLASSIFIER, 5_483_032),
    ("mobilenet_v3_small", CLASSIFIER, 2_542_856),
]

PARAMETERS = [
    ("deeplab_v3.resnet101_beta", {}, 58_164_437),  # published 58.16M, MobileNetV2 table 7
    ("deeplab_v3.resnet50", {}, 39_048_533),
    ("deeplab_v3.resnet101", {}, 58_040_661),
    ("deeplab_v3.mobilenet_v2", {}, 2_113_557),  # published 2.11M, ibid.
    ("deeplab_v3.mobilenet_v2", FULL_ASPP, 4_523_541),  # published 4.52M, ibid.
    ("deeplab_v3.mobilenet_v2_x0.5", {}, 697_013),
    ("deeplab_v3.resnet50", TORCHVISION, 39_638_869),
    ("deeplab_v3.resnet101", TORCHVISION, 58_630_997),
    ("deeplab_v3.resnet50", TORCHVISION | {"auxiliary": True}, 42_004_074),  # published by torchvision
    ("deeplab_v3.resnet101", TORCHVISION | {"auxiliary": True}, 60_996_202),  # published by torchvision
    ("deeplab_v3.mobilenet_v3_large", TORCHVISION_MOBILE, 11_029_328),  # published by torchvision
    ("lraspp.mobilenet_v3_large", {}, 3_221_538),  # published by torchvision
    ("deeplab_v3_plus.resnet101_beta", {}, 59_468_085),
    ("deeplab_v3_plus.resnet50", {}, 40_352_181),
    ("deeplab_v3_plus.resnet101", {}, 59_344_309),
    ("deeplab_v3_plus.resnet50", {"separable": True}, 26_696_133),
    ("deeplab_v3_plus.resnet101", {"separable": True}, 45_688_261),
    ("deeplab_v3_cascade.resnet50", {"stages": 4}, 23_551_061),
    ("deeplab_v3_cascade.resnet50", {"stages": 5}, 41_137_237),
    ("deeplab_v3_cascade.resnet50", {"stages": 6}, 58_723_413),
    ("deeplab_v3_cascade.resnet50", {}, 76_309_589),
    ("deeplab_v3_cascade.resnet101", {"stages": 4}, 42_543_189),
    ("deeplab_v3_cascade.resnet101", {"stages": 5}, 60_129_365),
    ("deeplab_v3_cascade.resnet101", {"stages": 6}, 77_715_541),
    ("deeplab_v3_cascade.resnet101", {}, 95_301_717),
    ("deeplab_v3.xception65", {}, 53_407_813),
    ("deeplab_v3_plus.xception65", {"separable": False}, 54_711_461),
    ("deeplab_v3_plus.xception65", {}, 41_055_413),  # published 41,258,213 by the Keras port, statistics included
    ("refinenet.resnet50", {}, 99_060_309),  # published 99M and 118M, Light-Weight RefineNet
    ("refinenet.resnet101", {}, 118_052_437),
    ("refinenet.resnet152", {}, 133_696_085),
    ("refinenet.resnet50", {"pooling_stages": 2}, 90_802_773),
    ("refinenet.resnet101", {"pooling_stages": 2}, 109_794_901),
    ("refinenet.resnet152", {"pooling_stages": 2}, 125_438_549),
    ("refinenet.resnet101", {"cascades": 1}, 69_093_461),
    ("refinenet.resnet101", {"cascades": 2}, 75_582_293),
    ("pspnet.resnet101", {"auxiliary": False}, 65_708_501),
    ("pspnet.resnet101", {"auxiliary": False, "num_classes": 19}, 65_707_475),
    ("pspnet.resnet50", {"auxiliary": False, "num_classes": 150}, 46_782_550),
    ("pspnet.resnet50", {"auxiliary": False}, 46_716_373),  # published 46.716M
    ("pspnet.resnet50", {}, 49_081_578),
    ("pspnet.resnet101", {}, 68_073_706),
    ("pspnet.resnet50", {"stem": "plain"}, 48_957_802),
    ("pspnet.resnet101", {"stem": "plain"}, 67_949_930),
    ("gcn.resnet50", {"upsampling": "bilinear"}, 26_052_308),
    ("gcn.resnet101", {"upsampling": "bilinear"}, 45_044_436),
    ("gcn.resnet152", {"upsampling": "bilinear"}, 60_688_084),
    ("gcn.resnet152", {"upsampling": "bilinear", "kernel_size": 7}, 59_369_620),
    ("gcn.resnet50", {}, 26_052_308 + 5 * 4 * 4 * 21 * 21),  # and five deconvolutions, not included in the count
    ("fcn_32s.vgg16", {}, 136_152_917),
    ("fcn_16s.vgg16", {}, 134_815_994),
    ("fcn_8s.vgg16", {}, 134_489_759),  # published 134M, FCN table 1; 134.5M in tables on CamVid
    ("fcn_8s.vgg16", {"upsampling": "learned"}, 134_489_759),
    ("crf_rnn.vgg16", {}, 134_489_780 + 2 * 21 + 21**2),  # released: three 21 x 21 matrices, two of them diagonal
    ("fcn_8s.vgg16", {"upsampling": "resize"}, 134_362_751),
    ("fcn_8s.vgg16", {"num_classes": 60}, 135_589_364),
    ("fcn_8s.vgg16", {"num_classes": 11}, 134_348_929),
    ("fcn_8s.vgg16", {"num_classes": 19}, 134_456_985),
    ("fcn_8s_at_once.vgg16", {}, 134_490_527),
    ("fcn.resnet50", {}, 35_322_218),  # published by torchvision
    ("fcn.resnet101", {}, 54_314_346),  # published by torchvision
    ("fcn.resnet50", {"auxiliary": False}, 32_957_013),
    ("fcn.resnet101", {"auxiliary": False}, 51_949_141),
    ("segnet.vgg16", {"num_classes": 11}, 29_449_355),  # published 29.45M, SegNet table 6 (117 MB)
    ("segnet.vgg16", {"num_classes": 12}, 29_449_932),
    ("segnet.vgg16", {}, 29_455_125),
    ("bayesian_segnet.vgg16", {}, 29_455_125),
    ("segnet.basic", {"num_classes": 11}, 1_416_587),  # published 1.425M, counted differently
    ("unet.valid", {"in_channels": 1, "num_classes": 2}, 31_030_658),  # published 31.0M
    ("unet.padded", {"batch_norm": False}, 31_033_045),
    ("unet.padded", {"conv_bias": True}, 31_044_821),
    ("unet.padded", {}, 31_038_933),
    ("dilation8.vgg16", {}, 141_149_720),
    ("dilation8.vgg16", {"context": "basic", "num_classes": 11}, 134_313_443),
    ("dilation10.vgg16", {"num_classes": 19}, 134_373_043),  # including 4,864 of the fixed transposed convolution
    ("dilation7.vgg16", {"num_classes": 11}, 134_312_343),
    ("deeplab_v1.vgg16", {}, 20_505_429),  # published 20.5M, DeepLab v1 table 2
    ("deeplab_v1.vgg16", {"fov": "7x7"}, 134_346_581),  # published 134.3M, ibid.
    ("deeplab_v1.vgg16", {"fov": "4x4"}, 65_140_565),  # published 65.1M, ibid.
    ("deeplab_v1.vgg16", {"fov": "small"}, 65_140_565),  # published 65.1M, ibid.
    ("deeplab_v1_msc.vgg16", {}, 21_711_550),
    ("deeplab_v2.vgg16", {}, 37_877_652),
    ("deeplab_v2.vgg16", {"atrous_rates": (2, 4, 8, 12)}, 37_877_652),
    ("deeplab_v2.vgg16", {"atrous_rates": (12,)}, 20_505_429),
    ("deeplab_v2.resnet101", {}, 44_048_532),
    ("deeplab_v2.resnet101", {"atrous_rates": (12,)}, 42_887_253),
    ("deeplab_v2_msc.resnet101", {}, 44_048_532),
    ("deeplab_v2_msc.vgg16", {}, 37_877_652),
]

MULTIPLY_ADDS = [  # at 513 x 513, in units of 1e9
    ("deeplab_v3.resnet101_beta", {"output_stride": 32}, 51.407),
    ("deeplab_v3.resnet101_beta", {"output_stride": 16}, 76.052),
    ("deeplab_v3.resnet101_beta", {"output_stride": 8}, 252.252),
    ("deeplab_v3_plus.resnet101_beta", {"output_stride": 32}, 73.170),
    ("deeplab_v3_plus.resnet101_beta", {"output_stride": 16}, 97.811),
    ("deeplab_v3_plus.resnet101_beta", {"output_stride": 8}, 273.994),
    ("deeplab_v3.resnet101", {"output_stride": 16}, 71.061),
    ("deeplab_v3.resnet101", {"output_stride": 8}, 246.182),
    ("deeplab_v3_plus.resnet101", {"output_stride": 16}, 92.820),
    ("deeplab_v3_plus.resnet101", {"output_stride": 8}, 267.924),
    ("deeplab_v3.resnet50", {"output_stride": 16}, 50.436),
    ("deeplab_v3.resnet50", {"output_stride": 8}, 166.161),
    ("deeplab_v3_plus.resnet50", {"output_stride": 16}, 72.195),
    ("deeplab_v3_plus.resnet50", {"output_stride": 8}, 187.903),
    ("deeplab_v3.mobilenet_v2", {"output_stride": 16}, 2.741),
    ("deeplab_v3.mobilenet_v2", {"output_stride": 8}, 8.826),
    ("deeplab_v3.mobilenet_v2", FULL_ASPP, 5.364),
    ("deeplab_v3.resnet101", DEEP_STEM | {"output_stride": 16}, 78.199),
    ("deeplab_v3.resnet101", DEEP_STEM | {"output_stride": 8}, 253.320),
    ("deeplab_v3_plus.resnet101", DEEP_STEM | {"output_stride": 16}, 99.958),
    ("deeplab_v3_plus.resnet101", DEEP_STEM | {"output_stride": 8}, 275.062),
    ("deeplab_v3_plus.resnet50", {"decoder_convs": 1}, 62.380),
    ("deeplab_v3_plus.resnet101", {"decoder_convs": 1}, 83.005),
    ("deeplab_v3.xception65", {}, 64.920),
    ("deeplab_v3.xception65", {"output_stride": 8}, 227.040),
    ("deeplab_v3_plus.xception65", {"separable": False}, 86.679),
    ("deeplab_v3_plus.xception65", {"separable": False, "output_stride": 8}, 248.782),
    ("deeplab_v3_plus.xception65", {}, 54.035),
    ("deeplab_v3_plus.xception65", {"output_stride": 8}, 176.852),
]

MULTIPLY_ADDS_ELSEWHERE = [  # (height, width), in units of 1e9
    ("deeplab_v3.resnet50", TORCHVISION, (520, 520), 168.731),
    ("deeplab_v3.resnet101", TORCHVISION, (520, 520), 248.752),
    ("lraspp.mobilenet_v3_large", {}, (520, 520), 2.086),  # published 2.09 by torchvision
    ("fcn.resnet50", {}, (520, 520), 142.726),  # the auxiliary head, idle here, is torchvision's 9.991 more
    ("fcn.resnet101", {}, (520, 520), 222.747),
    ("fcn_32s.vgg16", {}, (500, 500), 181.366),  # transposed convolutions charged densely, all pairs of classes
    ("fcn_16s.vgg16", {}, (500, 500), 181.448),
    ("fcn_8s.vgg16", {}, (500, 500), 181.529),
    ("fcn_32s.vgg16", {}, (360, 480), 139.68),
    ("fcn_16s.vgg16", {}, (360, 480), 139.75),
    ("fcn_8s.vgg16", {}, (360, 480), 139.81),
    # The independent counts are 110.183 and 60.215, with decoder maps of twice the pooled size, 12 -> 24 -> ... -> 384
    # and 23 -> 46 -> ... -> 368 rows. Unpooling gives the sizes that were pooled: 12 -> 23 -> 45 -> 90 -> 180 -> 360.
    # Rows less by 1, 3, 6, 12, 24 (basic: 1, 2, 4, 8) are 0.212 + 1.062 + 1.062 + 0.637 + 0.498 = 3.471 less
    # (basic: 0.012 + 0.048 + 0.193 + 0.774 = 1.027).
    ("segnet.vgg16", {"num_classes": 11}, (360, 480), 110.183 - 3.471),
    ("segnet.basic", {"num_classes": 11}, (360, 480), 60.215 - 1.027),
    ("unet.valid", {"in_channels": 1, "num_classes": 2}, (388, 388), 150.43),  # mirrored to 572 x 572
    ("unet.padded", {"batch_norm": False}, (512, 512), 193.0),
    ("unet.padded", {"batch_norm": False, "num_classes": 11}, (352, 480), 124.3),
    ("dilation8.vgg16", {}, (528, 528), 826.4),  # mirrored to 900 x 900
    ("dilation8.vgg16", {"context": "basic", "num_classes": 11}, (528, 728), 1053.4),  # to 900 x 1100
    ("dilation10.vgg16", {"num_classes": 19}, (1024, 1024), 2647.4),  # to 1396 x 1396
    ("dilation7.vgg16", {"num_classes": 11}, (480, 1268), 1622.0),  # to 852 x 1644, where the release takes 1640
    ("deeplab_v2.vgg16", {}, (321, 321), 80.12),
    ("deeplab_v2.vgg16", {}, (513, 513), 201.956),
    ("deeplab_v2.resnet101", {}, (321, 321), 75.136),
    ("deeplab_v2.resnet101", {}, (513, 513), 188.886),
    ("deeplab_v2_msc.resnet101", {}, (321, 321), 137.8),
    ("deeplab_v2_msc.resnet101", {}, (513, 513), 344.9),
]

MULTIPLY_ADDS_ELSEWHERE += [
    ("pspnet.resnet101", {}, (473, 473), 229.821),
    ("pspnet.resnet101", {"num_classes": 19}, (713, 713), 517.190),
    ("pspnet.resnet50", {}, (473, 473), 161.637),
    ("pspnet.resnet50", {"num_classes": 150}, (473, 473), 161.875),
    ("refinenet.resnet50", {}, (512, 512), 243.5),
    ("refinenet.resnet101", {}, (512, 512), 262.9),
    ("refinenet.resnet152", {}, (512, 512), 282.3),
    ("refinenet.resnet50", {}, (625, 468), 275.6),
    ("refinenet.resnet101", {}, (625, 468), 298.3),
    ("refinenet.resnet152", {}, (625, 468), 320.9),
    ("gcn.resnet50", {"upsampling": "bilinear"}, (512, 512), 29.54),
    ("gcn.resnet101", {"upsampling": "bilinear"}, (512, 512), 48.93),
    ("gcn.resnet152", {"upsampling": "bilinear"}, (512, 512), 68.33),
]

MULTIPLY_ADDS_IN_TRAINING = [  # auxiliary heads included
    ("deeplab_v3.resnet50", TORCHVISION | {"auxiliary": True}, 520, 178.722),  # published by torchvision, as the next
    ("deeplab_v3.resnet101", TORCHVISION | {"auxiliary": True}, 520, 258.743),
    ("fcn.resnet50", {}, 520, 152.717),
    ("fcn.resnet101", {}, 520, 232.738),
    ("pspnet.resnet101", {}, 473, 238.334),
    ("pspnet.resnet101", {"num_classes": 19}, 713, 536.340),
    ("pspnet.resnet50", {}, 473, 170.150),
]

SCALES = (257, 385, 513, 641, 769, 897)
MULTIPLY_ADDS_OF_SCALES = [  # DeepLab v3+ table 5, "MS"
    ("deeplab_v3.xception65", {}, 557.13),
    ("deeplab_v3.xception65", {"output_stride": 8}, 1959.13),
    ("deeplab_v3_plus.xception65", {"separable": False}, 745.51),
    ("deeplab_v3_plus.xception65", {"separable": False, "output_stride": 8}, 2147.37),
]


@pytest.mark.parametrize(("name", "arguments", "expected"), BACKBONES)
def test_parameters_of_backbones(name: str, arguments: dict, expected: int) -> None:
    with torch.device("meta"):
        assert count_parameters(create_backbone(name, **arguments)) == expected


def test_parameters_of_fully_connected_layers_as_convolutions() -> None:
    with torch.device("meta"):
        model = create_model("fcn_32s.vgg16")
    fc6, fc7 = model.backbone.classifier[0], model.backbone.classifier[3]
    assert [count_parameters(fc6), count_parameters(fc7)] == [102_764_544, 16_781_312]


@pytest.mark.parametrize(("name", "arguments", "expected"), PARAMETERS)
def test_parameters(name: str, arguments: dict, expected: int) -> None:
    with torch.device("meta"):
        assert count_parameters(create_model(name, **arguments)) == expected


@pytest.mark.parametrize(
    ("name", "arguments", "size", "billions"),
    [(name, arguments, (513, 513), billions) for name, arguments, billions in MULTIPLY_ADDS] + MULTIPLY_ADDS_ELSEWHERE,
)
def test_multiply_adds(name: str, arguments: dict, size: tuple[int, int], billions: float) -> None:
    with torch.device("meta"):
        model = create_model(name, **arguments)
    channels = arguments.get("in_channels", 3)
    assert multiply_adds(model, *size, in_channels=channels) / 1e9 == pytest.approx(billions, rel=1e-3)


@pytest.mark.parametrize(("name", "arguments", "side", "billions"), MULTIPLY_ADDS_IN_TRAINING)
def test_multiply_adds_with_auxiliary_heads(name: str, arguments: dict, side: int, billions: float) -> None:
    with torch.device("meta"):
        model = create_model(name, **arguments)
    assert multiply_adds(model, side, side, include_auxiliary=True) / 1e9 == pytest.approx(billions, rel=1e-3)


@pytest.mark.parametrize(("name", "arguments", "billions"), MULTIPLY_ADDS_OF_SCALES)
def test_multiply_adds_of_several_scales(name: str, arguments: dict, billions: float) -> None:
    with torch.device("meta"):
        model = create_model(name, **arguments)
    assert sum(multiply_adds(model, side, side) for side in SCALES) / 1e9 == pytest.approx(billions, rel=1e-3)
