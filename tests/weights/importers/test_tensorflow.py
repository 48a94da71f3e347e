"""TensorFlow DeepLab's checkpoints, against what Google's own code computes with them, and by files written here."""

from __future__ import annotations

import re
import runpy
import tarfile
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import atrous
from atrous import AtrousError, create_model
from atrous.card import Card
from atrous.layers.meta import meta_device
from atrous.models import SegmentationModel, build_from_card
from atrous.weights import save
from atrous.weights.importers import tensorflow
from atrous.weights.importers.tensorflow_graph import FrozenGraph
from atrous.weights.importers.tensorflow_variant import _graph_arguments, describe_network
from atrous.weights.pretrained import load_pretrained_backbone, pretrained_normalization
from tests.weights.importers.protobuf_writer import message, varint_field
from tests.weights.importers.tensorflow_writer import (
    HEADER,
    constant,
    deeplab_variables,
    entry_message,
    network_sources,
    node,
    numbers,
    write_checkpoint,
    write_table,
)
from tests.weights.importers.test_snappy import compress

GENUINE = [("mobilenet_v2", 16), ("mobilenet_v2", 8), ("xception_65", 16), ("resnet_v1_50_beta", 16)]
SMALL = "deeplab_v3.mobilenet_v2"
ZOO = "deeplabv3_mnv2_dm05_pascal_trainaug_2018_10_01.tar.gz"
OPTIONS: dict[str, Any] = {
    "width": 0.35,
    "channels": 16,
    "align_corners": True,
    "backbone_options": {"padding": "tensorflow", "divisor": 1},
}
DECODER = {"decoder_channels": 24, "low_level_channels": 8}


@pytest.fixture(scope="module")
def checkpoints(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Write the genuine checkpoints, whose values follow from their names; they are shared by the tests here."""
    folder = tmp_path_factory.mktemp("tensorflow")
    source = shared_data / "tensorflow"

    def write(name: str) -> Path:
        prefix = folder / f"{name}.ckpt"
        if not prefix.with_suffix(".ckpt.index").exists():
            with pytest.MonkeyPatch.context() as patch:
                arguments = [source / f"{name}.ckpt.index", source / f"{name}_os16.npz", prefix]
                patch.setattr("sys.argv", ["make_checkpoint.py", *map(str, arguments)])
                runpy.run_path(str(source / "make_checkpoint.py"), run_name="__main__")
        return prefix

    return write


@pytest.mark.parametrize(("name", "output_stride"), GENUINE)
def test_logits_are_those_of_googles_code(checkpoints, shared_data: Path, name: str, output_stride: int) -> None:
    model = atrous.load(checkpoints(name))
    model.set_output_stride(output_stride)
    oracle = np.load(shared_data / "tensorflow" / f"{name}_os{output_stride}.npz")
    mean, std = (torch.tensor(values)[:, None, None] for values in _normalization(model.card))
    image = torch.from_numpy(oracle["image"]).permute(0, 3, 1, 2)
    with torch.no_grad():
        ours = model.scores((image - mean) / std).permute(0, 2, 3, 1).numpy()
    assert ours.shape == oracle["logits"].shape
    assert np.linalg.norm(ours - oracle["logits"]) <= 1e-4 * np.linalg.norm(oracle["logits"])


def _normalization(card: Card) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return card.preprocessing.mean, card.preprocessing.std


@pytest.mark.parametrize(
    ("name", "model_id", "words"),
    [
        ("mobilenet_v2", "deeplab_v3.mobilenet_v2", "ASPP without atrous branches, image pooling, no decoder"),
        ("xception_65", "deeplab_v3_plus.xception65", "separable ASPP, image pooling, separable decoder"),
        ("resnet_v1_50_beta", "deeplab_v3_plus.resnet50_beta", "by default: .* rates 6, 12, 18, multi-grid 1, 1, 1"),
    ],
)
def test_the_card_of_a_genuine_checkpoint(checkpoints, name: str, model_id: str, words: str) -> None:
    _, card = tensorflow.read(checkpoints(name))
    assert card.model == model_id
    assert re.search(words, card.source)
    assert card.classes[15] == "person"
    assert card.preprocessing.size == (513, 513)
    assert card.preprocessing.mean == card.preprocessing.std == (127.5, 127.5, 127.5)
    assert card.license == "unknown"
    assert not card.measured


def randomized(model: SegmentationModel) -> SegmentationModel:
    """Draw batch statistics, which a fresh network lacks, so that every one of them matters."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias)
            torch.nn.init.normal_(layer.running_mean)
            torch.nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def small() -> SegmentationModel:
    torch.manual_seed(1)
    return randomized(create_model(SMALL, num_classes=5, **OPTIONS))


@pytest.fixture(scope="module")
def variables(small: SegmentationModel) -> dict[str, Any]:
    return deeplab_variables(small, "MobilenetV2")


def assert_same_network(loaded: SegmentationModel, model: SegmentationModel) -> None:
    """Compare the outputs at an even size, where paddings differ."""
    image = torch.rand(1, 3, 66, 92)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), model(image), rtol=0, atol=0)


@pytest.mark.parametrize("table", [{}, {"shards": 3}, {"compress": compress}, {"per_block": 1000}])
def test_what_was_written_is_read(small: SegmentationModel, variables, tmp_path: Path, table: dict[str, Any]) -> None:
    index = write_checkpoint(tmp_path / "model.ckpt-3000", variables, **table)
    assert_same_network(atrous.load(index), small)


@pytest.mark.parametrize("name", ["a.ckpt", "a.ckpt.index", "a.ckpt.data-00000-of-00001", "a.ckpt.meta"])
def test_every_file_of_a_checkpoint_and_its_prefix_name_it(
    small: SegmentationModel, variables, tmp_path: Path, name: str
) -> None:
    write_checkpoint(tmp_path / "a.ckpt", variables)
    (tmp_path / "a.ckpt.meta").write_bytes(b"")
    assert_same_network(atrous.load(tmp_path / name), small)


@pytest.mark.parametrize(
    ("model_id", "options"),
    [
        ("deeplab_v3.mobilenet_v2", {"atrous_rates": (6, 12, 18), "separable": True}),
        ("deeplab_v3.mobilenet_v2", {"atrous_rates": (6, 12, 18), "image_pooling": False}),
        ("deeplab_v3.mobilenet_v2_x0.5", {"width": 1.0, "backbone_options": {"padding": "tensorflow"}}),
        ("deeplab_v3.mobilenet_v2", {"width": 1.4, "backbone_options": {"padding": "tensorflow"}}),
        ("deeplab_v3_plus.mobilenet_v2", {**DECODER}),
        ("deeplab_v3_plus.mobilenet_v2", {**DECODER, "atrous_rates": ()}),
        ("deeplab_v3_plus.mobilenet_v2", {**DECODER, "separable": False, "decoder_separable": True}),
        ("deeplab_v3_plus.mobilenet_v2", {**DECODER, "separable": True, "decoder_separable": False}),
        ("deeplab_v3_plus.mobilenet_v2", {**DECODER, "conv3_tap": True}),
        ("deeplab_v3_plus.mobilenet_v2", {**DECODER, "conv3_tap": True, "decoder_separable": False}),
        (
            "deeplab_v3_plus.mobilenet_v2",
            {**DECODER, "backbone_options": {"padding": "tensorflow", "divisor": 1, "maps_from": "depthwise"}},
        ),
    ],
)
def test_variants_are_told_from_names_and_shapes(tmp_path: Path, model_id: str, options: dict[str, Any]) -> None:
    model = randomized(create_model(model_id, num_classes=3, **{**OPTIONS, **options}))
    index = write_checkpoint(tmp_path / "model.ckpt", deeplab_variables(model, "MobilenetV2"))
    assert_same_network(atrous.load(index), model)


@pytest.mark.parametrize("width", [0.1, 0.25, 0.35, 0.5, 0.75, 1.0, 1.3, 1.4])
@pytest.mark.parametrize("divisor", [1, 8])
def test_widths_of_mobilenet_v2(width: float, divisor: int) -> None:
    options = {**OPTIONS, "width": width, "backbone_options": {"divisor": divisor}}
    assert_described(SMALL, "MobilenetV2", options)


@pytest.mark.parametrize(
    ("backbone", "scope"),
    [
        ("xception41", "xception_41"),
        ("xception65", "xception_65"),
        ("xception71", "xception_71"),
        ("resnet50_beta", "resnet_v1_50"),
        ("resnet101_beta", "resnet_v1_101"),
    ],
)
@pytest.mark.parametrize("options", [{"separable": True}, {"separable": False, "image_pooling": False}])
@pytest.mark.parametrize("family", ["deeplab_v3", "deeplab_v3_plus"])
def test_every_backbone_is_told_from_names_and_shapes(family: str, backbone: str, scope: str, options) -> None:
    assert_described(f"{family}.{backbone}", scope, options)


def test_a_resnet_without_beta_is_told_by_its_stem() -> None:
    card = assert_described("deeplab_v3.resnet50_beta", "resnet_v1_50", {"backbone_options": {"stem": "plain"}})
    assert card.preprocessing.mean == (123.15, 115.90, 103.06)
    assert card.preprocessing.std == (1, 1, 1)


def assert_described(model_id: str, scope: str, options: dict[str, Any]) -> Card:
    """Describe the variables of a network by names and shapes alone, without values."""
    with meta_device():
        model = create_model(model_id, num_classes=19, **options)
    shapes = tensorflow._expected_shapes(model, network_sources(model, scope))
    found, card = describe_network(Path("model.ckpt.index"), shapes, None)
    assert found == scope
    assert card.classes[0] == "road"
    with meta_device():
        described = build_from_card(card)
    assert type(described) is type(model)
    ours, theirs = ({key: value.shape for key, value in each.state_dict().items()} for each in (described, model))
    assert ours == theirs
    return card


def test_variables_of_the_optimizer_are_ignored(small: SegmentationModel, variables, tmp_path: Path) -> None:
    slots = {f"{name}/Momentum": value for name, value in variables.items()} | {"global_step": np.array(30000)}
    assert_same_network(atrous.load(write_checkpoint(tmp_path / "a", {**variables, **slots})), small)


def test_imported_saved_and_loaded_is_the_same(small: SegmentationModel, variables, tmp_path: Path) -> None:
    model = atrous.load(write_checkpoint(tmp_path / "a", variables))
    again = atrous.load(save(model, tmp_path / "a.safetensors"))
    assert again.card == model.card
    assert_same_network(again, small)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda v: v.pop("aspp0/BatchNorm/beta"), "'aspp0/BatchNorm/beta' is missing, in a DeepLabV3 on"),
        (lambda v: v.update({"image_pooling/biases": np.zeros(9, "f")}), "'image_pooling/biases' is unexpected"),
        (
            lambda v: v.update({"logits/semantic/biases": np.zeros(4, "f")}),
            r"has shape \(4,\), expected \(5,\)",
        ),
        (lambda v: v.update({"concat_projection/weights": np.zeros((1, 1, 8, 16), "f")}), r"expected \(1, 1, 32, 16\)"),
        (lambda v: v.update({"aspp1/weights": np.zeros((3, 3, 9, 16), "f")}), "has 1 atrous branches"),
        (lambda v: v.pop("aspp0/weights"), "not that of DeepLab v3"),
        (lambda v: v.update({"MobilenetV2/expanded_conv_7/project/weights": np.zeros((1, 1, 9, 9), "f")}), "no width"),
        (
            lambda v: [v.pop(k) for k in list(v) if k.startswith("Mobile")],
            "of no known network: aspp0",
        ),
        (
            lambda v: (
                [v.pop(k) for k in list(v) if not k.startswith("Mobile")]
                + [v.update({"MobilenetV2/Logits/Conv2d_1c_1x1/weights": np.zeros((1, 1, 9, 9), "f")})]
            ),
            "an image classifier.*backbone_weights=FILE",
        ),
        (lambda v: v.update({"aspp0/BatchNorm/beta": np.full(16, np.nan, "f")}), "contains NaN"),
        (lambda v: v.update({"aspp0/BatchNorm/beta": np.zeros(16, "i4")}), "has the type 3; expected 16-, 32- or 64"),
    ],
)
def test_other_variables_are_named(variables, tmp_path: Path, change, problem: str) -> None:
    changed = dict(variables)
    change(changed)
    with pytest.raises(AtrousError, match=problem):
        atrous.load(write_checkpoint(tmp_path / "a", changed))


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ({"crc": 1}, "the checksum of aspp0/weights differs"),
        ({"size": 2**60}, "bytes for the shape"),
        ({"shape": (2**40, 2**40), "size": 2**82 % 2**64}, "bytes for the shape"),
        ({"shape": (2**31, 0), "size": 0}, "bytes for the shape"),
        ({"shape": (1, 1, 320, 2**30), "size": 320 * 2**32}, "ends beyond the"),
        ({"shape": (-1, 5)}, r"has the shape \[-1\]"),
        ({"more": message(7, b"")}, "is split into slices"),
        ({"kind": 20}, "has the type 20"),
        ({"more": varint_field(4, 2**50)}, "ends beyond the"),
        ({"more": varint_field(3, 7)}, "in shard 7 of 1"),
    ],
)
def test_entries_that_lie_are_refused(variables, tmp_path: Path, told: dict[str, Any], problem: str) -> None:
    with pytest.raises(AtrousError, match=problem):
        atrous.load(write_checkpoint(tmp_path / "a", variables, changed={"aspp0/weights": told}))


def test_many_variables_in_the_same_place_are_refused(tmp_path: Path) -> None:
    array = np.zeros(1000, "f")
    (tmp_path / "a.data-00000-of-00001").write_bytes(array.tobytes())
    rows = [(b"", HEADER)] + [(f"{index:05d}".encode(), entry_message(array, 0)) for index in range(50)]
    (tmp_path / "a.index").write_bytes(write_table(rows))
    with pytest.raises(AtrousError, match="00001 ends beyond the 4000 bytes"):
        atrous.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (message(1, b"\x0a\x00"), "old V1 format"),
        (varint_field(1, 1) + varint_field(2, 1), "big-endian"),
        (varint_field(1, 1) + message(3, varint_field(2, 9)), "a reader of version 9"),
        (varint_field(1, 2**40), "claims 1099511627776 shards"),
        (b"", "claims 0 shards"),
        (varint_field(1, 2), "a.data-00000-of-00002, which is not beside it"),
    ],
)
def test_other_headers_are_refused(tmp_path: Path, header: bytes, problem: str) -> None:
    rows = [(b"", header), (b"w", entry_message(np.zeros(3, "f"), 0))]
    for name in ("a.index", "a"):  # a V1 checkpoint is one file, without a suffix
        (tmp_path / name).write_bytes(write_table(rows))
        with pytest.raises(AtrousError, match=problem):
            atrous.load(tmp_path / name)
        (tmp_path / name).unlink()


def test_an_index_without_header_or_variables_is_refused(tmp_path: Path) -> None:
    for rows, problem in (
        ([], "empty"),
        ([(b"w", b"")], "header is missing"),
        ([(b"", HEADER)], "no known network: none at all"),
    ):
        (tmp_path / "a.index").write_bytes(write_table(rows))
        with pytest.raises(AtrousError, match=problem):
            atrous.load(tmp_path / "a.index")


# Archives


def write_archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, BytesIO(content))
    return path


@pytest.fixture(scope="module")
def members(variables, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("archive")
    write_checkpoint(folder / "model.ckpt", variables)
    return {f"deeplab/{path.name}": path.read_bytes() for path in sorted(folder.iterdir())}


def test_an_archive_of_the_zoo_is_read_without_unpacking(small: SegmentationModel, members, tmp_path: Path) -> None:
    others = {"deeplab/frozen_inference_graph.pb": b"not read", "deeplab/.profile": b"not written"}
    path = write_archive(tmp_path / ZOO, {**others, **members})
    model = atrous.load(path)
    assert_same_network(model, small)
    assert list(tmp_path.iterdir()) == [path]
    assert model.card.license == "Apache-2.0"
    assert [(figure.value, figure.published) for figure in model.card.measured] == [(70.19, True)]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda m: m.update({"../../.profile": b""}), r"unsafe path \.\./\.\./\.profile"),
        (lambda m: m.update({"/etc/passwd": b""}), "unsafe path /etc/passwd"),
        (lambda m: m.update({"a\\..\\b": b""}), "unsafe path"),
        (lambda m: m.update({"other/model.ckpt.index": b""}), "found 2: deeplab/model.ckpt.index, other"),
        (lambda m: m.pop("deeplab/model.ckpt.index"), "found 0"),
        (lambda m: m.pop("deeplab/model.ckpt.data-00000-of-00001"), "lacks deeplab/model.ckpt.data-00000-of-00001"),
        (lambda m: m.update({f"{index}": b"" for index in range(1000)}), "more than 1000 members"),
        (lambda m: m.update({"zeros": bytes(80 * 2**20)}), "expands beyond 67108864 bytes"),
    ],
)
def test_other_archives_are_refused(members, tmp_path: Path, change, problem: str) -> None:
    changed = dict(members)
    change(changed)
    with pytest.raises(AtrousError, match=problem):
        atrous.load(write_archive(tmp_path / "a.tar.gz", changed))


def test_sparse_members_are_not_taken_for_values(members, tmp_path: Path) -> None:
    """A sparse file claims more bytes than the archive holds."""
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if name.endswith("of-00001"):
                info.pax_headers = {"GNU.sparse.size": str(2**40), "GNU.sparse.map": f"0,{len(content)}"}
            archive.addfile(info, BytesIO(content))
    with pytest.raises(AtrousError, match="lacks deeplab"):
        atrous.load(path)


@pytest.mark.parametrize("keep", [20, 600, 100_000, -5000])
def test_a_truncated_archive_is_refused(members, tmp_path: Path, keep: int) -> None:
    path = write_archive(tmp_path / "a.tar.gz", members)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(AtrousError):
        atrous.load(path)


# Frozen graphs


def write_graph(path: Path, variables: dict[str, Any], *nodes: bytes) -> Path:
    path.write_bytes(b"".join(constant(name, value) for name, value in variables.items()) + b"".join(nodes))
    return path


def strided(count: int) -> list[bytes]:
    return [node(f"conv{index}/Conv2D", "Conv2D", strides=numbers((1, 2, 2, 1))) for index in range(count)]


def test_a_frozen_graph_is_read_with_its_output_stride_and_pooling_window(
    small: SegmentationModel, variables, tmp_path: Path
) -> None:
    pool = node("AvgPool", "AvgPool", ksize=numbers((1, 33, 65, 1)))
    shortcut = node("unit/shortcut/Conv2D", "Conv2D", strides=numbers((1, 2, 2, 1)))
    model = atrous.load(write_graph(tmp_path / "frozen_inference_graph.pb", variables, *strided(3), shortcut, pool))
    assert model.output_stride == 8
    assert model.aspp.pooling.window == (33, 65)
    model.set_output_stride(16)
    model.aspp.pooling.window = None
    assert_same_network(model, small)


@pytest.mark.parametrize("by_block", [False, True])
def test_the_rates_of_a_frozen_graph_are_read(tmp_path: Path, by_block: bool) -> None:
    def dilated(scope: str, rate: int) -> list[bytes]:
        if not by_block:
            return [node(f"{scope}/Conv2D", "Conv2D", dilations=numbers((1, rate, rate, 1)))]
        block = f"{scope}/SpaceToBatchND/block_shape"
        return [
            node(f"{scope}/SpaceToBatchND", "SpaceToBatchND", inputs=["x", block]),
            constant(block, np.array([rate, rate], "i4")),
        ]

    model = create_model(SMALL, num_classes=2, **OPTIONS, atrous_rates=(1, 2, 3))
    nodes = [part for index, rate in ((1, 8), (2, 20), (3, 30)) for part in dilated(f"aspp{index}", rate)]
    path = write_graph(tmp_path / "a.pb", deeplab_variables(model, "MobilenetV2"), *strided(3), *nodes)
    assert atrous.load(path).card.arguments["atrous_rates"] == [4, 10, 15]


@pytest.mark.parametrize(
    ("scope", "unit"),
    [
        ("resnet_v1_101", "block4/unit_{}/bottleneck_v1/conv2"),
        ("xception_65", "exit_flow/block2/unit_1/xception_module/separable_conv{}_depthwise"),
    ],
)
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_the_multi_grid_of_a_frozen_graph_is_read(tmp_path: Path, scope: str, unit: str, output_stride: int) -> None:
    rates = {index: numbers((1, *[factor * 32 // output_stride] * 2, 1)) for index, factor in enumerate((1, 2, 4), 1)}
    nodes = [node(f"{scope}/{unit.format(i)}/Conv2D", "Conv2D", dilations=rate) for i, rate in rates.items()]
    graph = FrozenGraph(write_graph(tmp_path / "a.pb", {}, *strided(output_stride.bit_length() - 1), *nodes))
    read = _graph_arguments(graph, scope, {"separable": True, "atrous_rates": ()})
    assert read == {
        "output_stride": output_stride,
        "multi_grid": (1, 2, 4),
        "atrous_rates": (),
        "pooling_crop": None,
    }


def test_rates_that_no_output_stride_of_16_has_are_refused(tmp_path: Path) -> None:
    nodes = [node("aspp1/Conv2D", "Conv2D", dilations=numbers((1, 5, 5, 1)))]
    graph = FrozenGraph(write_graph(tmp_path / "a.pb", {}, *strided(3), *nodes))
    with pytest.raises(AtrousError, match="the rates 5 at output stride 8"):
        _graph_arguments(graph, "MobilenetV2", {"separable": False, "atrous_rates": (6,)})


def test_other_graphs_are_refused(variables, tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match="has output stride 1; expected 8, 16 or 32"):
        atrous.load(write_graph(tmp_path / "a.pb", variables))
    with pytest.raises(AtrousError, match="of no known network"):
        atrous.load(write_graph(tmp_path / "a.pb", {"w": np.zeros(3, "f")}, *strided(3)))
    variables = {**variables, "aspp0/BatchNorm/beta": np.zeros(16, np.float16)}
    with pytest.raises(AtrousError, match="beta has the type 19; expected 32-bit floats"):
        atrous.load(write_graph(tmp_path / "a.pb", variables, *strided(3)))


# Backbones


@pytest.fixture(scope="module")
def classifier(variables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a checkpoint of an ImageNet classifier: the backbone, with layers that segmentation does not have."""
    backbone = {name: value for name, value in variables.items() if name.startswith("MobilenetV2/")}
    others = ("Conv_1/weights", "Logits/Conv2d_1c_1x1/biases", "Conv/weights/Momentum")
    backbone |= {f"MobilenetV2/{name}": np.zeros((1, 1, 3, 9), "f") for name in others}
    return write_checkpoint(tmp_path_factory.mktemp("imagenet") / "model.ckpt", backbone)


@pytest.mark.parametrize("name", ["model.ckpt", "model.ckpt.index"])
def test_a_classifier_starts_the_backbone(small: SegmentationModel, classifier: Path, name: str) -> None:
    model = create_model(SMALL, num_classes=7, **OPTIONS)
    head = model.classifier.weight.clone()
    report = load_pretrained_backbone(model, str(classifier.with_name(name)))
    assert report.copied == len(model.backbone.state_dict())
    for ours, theirs in zip(model.backbone.state_dict().values(), small.backbone.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(model.classifier.weight, head)


def test_training_from_a_checkpoint_takes_its_normalization(classifier: Path) -> None:
    assert pretrained_normalization(SMALL, {}, str(classifier)) == {"mean": (127.5,) * 3, "std": (127.5,) * 3}


@pytest.mark.parametrize(
    ("model_id", "problem"),
    [
        ("deeplab_v3.xception41", "'MobilenetV2/entry_flow/block1"),
        ("deeplab_v3.resnet50", "the stride in the last unit of a stage, resnet50 in the first"),
        ("deeplab_v3.efficientnet_lite0", "efficientnet_lite0 has no counterpart in TensorFlow DeepLab"),
        ("deeplab_v3.mobilenet_v2", r"has shape \(11,\), expected \(32,\)"),
    ],
)
def test_other_backbones_are_refused(classifier: Path, model_id: str, problem: str) -> None:
    with meta_device():
        model = create_model(model_id)
    with pytest.raises(AtrousError, match=problem):
        load_pretrained_backbone(model, str(classifier))


# Damage


@settings(max_examples=25)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans(), in_index=st.booleans())
def test_a_damaged_checkpoint_is_refused_or_intact(
    small: SegmentationModel, variables, tmp_path: Path, where: float, bit: int, cut: bool, in_index: bool
) -> None:
    index = write_checkpoint(tmp_path / "a", variables)
    damage(index if in_index else tmp_path / "a.data-00000-of-00001", where, bit, cut=cut)
    check_refused_or_intact(index, small)


@settings(max_examples=25)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_a_damaged_archive_is_refused_or_intact(
    small: SegmentationModel, members, tmp_path: Path, where: float, bit: int, cut: bool
) -> None:
    path = write_archive(tmp_path / "a.tar.gz", members)
    damage(path, where, bit, cut=cut)
    check_refused_or_intact(path, small)


@settings(max_examples=25)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_a_damaged_graph_is_refused_or_read(variables, tmp_path: Path, where: float, bit: int, cut: bool) -> None:
    path = write_graph(tmp_path / "a.pb", variables, *strided(3))
    damage(path, where, bit, cut=cut)
    with suppress(AtrousError):
        assert atrous.load(path).num_classes == 5  # a graph has no checksum


def damage(path: Path, where: float, bit: int, *, cut: bool) -> None:
    data = bytearray(path.read_bytes())
    position = int(where * len(data))
    if cut:
        del data[position:]
    else:
        data[position] ^= 1 << bit
    path.write_bytes(data)


def check_refused_or_intact(path: Path, model: SegmentationModel) -> None:
    try:
        loaded = atrous.load(path)
    except AtrousError:
        return
    for ours, theirs in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
