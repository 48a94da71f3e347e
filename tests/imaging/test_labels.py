"""Masks of every kind, read as labels; values without a class are errors."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from atrous import AtrousError
from atrous.imaging.labels import MaskReader, count_labels, read_raw_mask, save_labels, voc_color_map
from tests.data_fixtures import Write
from tests.pictures import bomb

CLASSES = ("background", "road", "tree")
LABELS = np.array([[0, 1, 2, 255], [2, 2, 1, 0], [0, 0, 1, 255]], np.uint8)


def palette_image(labels: np.ndarray) -> Image.Image:
    image = Image.fromarray(labels)
    image.putpalette(np.array(voc_color_map(256), np.uint8).tobytes())
    return image


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(LABELS),
        palette_image(LABELS),
        Image.fromarray(np.dstack([LABELS] * 3)),
        Image.fromarray(np.dstack([LABELS, np.full_like(LABELS, 7)])),
        Image.fromarray(np.dstack([LABELS] * 3 + [np.zeros_like(LABELS)])),
        Image.fromarray(LABELS.astype(np.uint16)),
    ],
    ids=["gray", "palette", "gray as RGB", "gray and alpha", "gray as RGBA", "16 bits"],
)
def test_one_mask_stored_in_six_ways(image: Image.Image, tmp_path: Path) -> None:
    image.save(tmp_path / "a.png")
    read = MaskReader(CLASSES).read(tmp_path / "a.png")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, LABELS)


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".webp"])
def test_other_lossless_formats(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(LABELS) if suffix != ".webp" else Image.fromarray(np.dstack([LABELS] * 3))
    image.save(tmp_path / f"a{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    np.testing.assert_array_equal(MaskReader(CLASSES).read(tmp_path / f"a{suffix}"), LABELS)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_values_of_few_bits_are_not_scaled(tmp_path: Path, bits: int) -> None:
    labels = np.arange(24).reshape(4, 6).astype(np.uint8) % 2**bits
    palette_image(labels).save(tmp_path / "palette.png", bits=bits)
    cv2.imwrite(str(tmp_path / "gray.png"), labels * (255 // (2**bits - 1)))
    gray = _with_few_bits(labels, bits)
    (tmp_path / "gray.png").write_bytes(gray)
    for name in ("palette", "gray"):
        np.testing.assert_array_equal(read_raw_mask(tmp_path / f"{name}.png"), labels)


def _with_few_bits(labels: np.ndarray, bits: int) -> bytes:
    """A gray PNG of 1, 2 or 4 bits, which Pillow does not write."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b""
    for row in labels:
        packed = "".join(f"{value:0{bits}b}" for value in row).ljust(-(-len(row) * bits // 8) * 8, "0")
        rows += b"\0" + int(packed, 2).to_bytes(len(packed) // 8, "big")
    header = struct.pack(">IIBBBBB", labels.shape[1], labels.shape[0], bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_black_and_white(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path / "a.png", np.array([[0, 255]], np.uint8))
    assert MaskReader(("no", "yes"), values={0: 0, 255: 1}).read(path).tolist() == [[0, 1]]


def test_colors(tmp_path: Path, write: Write) -> None:
    colors = dict(zip(voc_color_map(3), range(3), strict=True)) | {(255, 255, 255): 255}
    pixels = np.array(voc_color_map(256), np.uint8)[LABELS]
    pixels[LABELS == 255] = 255
    rgb = write(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(MaskReader(CLASSES, colors=colors).read(rgb), LABELS)
    shuffled = Image.fromarray(pixels).quantize(8)  # a palette whose indices mean nothing
    shuffled.save(tmp_path / "b.png")
    np.testing.assert_array_equal(MaskReader(CLASSES, colors=colors, by_color=True).read(tmp_path / "b.png"), LABELS)
    strange = pixels.copy()
    strange[0, :2] = (1, 2, 3)
    with pytest.raises(AtrousError, match=r"b2\.png: 1 color such as \(1, 2, 3\) \(2 px\) without a class"):
        MaskReader(CLASSES, colors=colors).read(write(tmp_path / "b2.png", strange))
    with pytest.raises(AtrousError, match=r"colors of the classes \(0 background, 1 road, 2 tree\) are unknown"):
        MaskReader(CLASSES).read(rgb)


def test_more_classes_than_a_byte_holds(tmp_path: Path) -> None:
    classes = tuple(f"class {number}" for number in range(300))
    labels = np.array([[0, 299, 65000]], np.uint16)
    save_labels(labels, voc_color_map(300), tmp_path / "a.png")
    read = MaskReader(classes, ignore_index=65000).read(tmp_path / "a.png")
    assert read.dtype == np.uint16
    assert read.tolist() == labels.tolist()


def test_an_ignore_index_of_16_bits_among_few_classes(tmp_path: Path) -> None:
    labels = np.array([[0, 2, 256]], np.uint16)
    save_labels(labels, voc_color_map(3), tmp_path / "a.png")
    assert MaskReader(CLASSES, ignore_index=256).read(tmp_path / "a.png").tolist() == labels.tolist()


def test_a_value_without_a_class_names_file_value_and_classes(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path / "a.png", np.array([[0, 1, 7, 7, 9]], np.uint8))
    with pytest.raises(AtrousError) as caught:
        MaskReader(CLASSES).read(path)
    message = str(caught.value)
    for part in (str(path), "values 7 (2 px), 9 (1 px)", "0 background, 1 road, 2 tree", "255 for ignored pixels"):
        assert part in message
    with pytest.raises(AtrousError, match=r"0 c0, 1 c1, 2 c2, \.\.\., 29 c29"):
        MaskReader(tuple(f"c{number}" for number in range(30))).read(
            write(tmp_path / "b.png", np.full((2, 2), 200, np.uint8))
        )


def test_orientation_is_followed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(LABELS).copy()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(MaskReader(CLASSES).read(tmp_path / "a.png"), LABELS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.png", b"", "the file is empty"),
        ("text.png", b"hello, I am a text", "not an image in any known format"),
        ("bomb.png", bomb(100_000, 100_000), "too large, over 179 megapixels"),
        ("floats.tif", np.zeros((4, 4), np.float32), "integers from 0 to 65535"),
        ("blurred.jpg", LABELS, "is a JPEG, whose compression changes labels"),
        ("blurred.png.jpg", np.dstack([LABELS] * 3), "is a JPEG"),
    ],
)
def test_hostile_masks(tmp_path: Path, write: Write, name: str, content: np.ndarray | bytes, message: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(AtrousError, match=message) as caught:
        MaskReader(CLASSES).read(path)
    assert str(path) in str(caught.value)


def test_a_jpeg_with_the_name_of_a_png(tmp_path: Path) -> None:
    Image.fromarray(LABELS).save(tmp_path / "a.png", format="JPEG")
    with pytest.raises(AtrousError, match="is a JPEG"):
        MaskReader(CLASSES).read(tmp_path / "a.png")


def test_16_bit_color_is_not_cut_to_8(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((4, 4, 3), 300, np.uint16))
    with pytest.raises(AtrousError, match=r"16-bit color \(RGB;16B\)"):
        MaskReader(CLASSES).read(tmp_path / "a.png")


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_truncated(tmp_path: Path, kept: float) -> None:
    labels = np.random.default_rng(0).integers(0, 3, (200, 200), np.uint8)
    palette_image(labels).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(AtrousError, match=r"a\.png"):
        MaskReader(CLASSES).read(tmp_path / "a.png")


def test_missing_and_folder(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "mask_1.png", LABELS)
    with pytest.raises(AtrousError, match=r"no such file\. Did you mean 'mask_1\.png'"):
        MaskReader(CLASSES).read(tmp_path / "mask_2.png")
    with pytest.raises(AtrousError, match="is a folder"):
        MaskReader(CLASSES).read(tmp_path)


sizes = st.tuples(st.integers(1, 20), st.integers(1, 20))
label_maps = arrays(np.uint8, sizes, elements=st.sampled_from([0, 1, 2, 255]))


@given(labels=label_maps)
def test_saving_and_reading_are_inverse(labels: np.ndarray, tmp_path: Path) -> None:
    save_labels(labels, voc_color_map(3), tmp_path / "a.png")
    np.testing.assert_array_equal(MaskReader(CLASSES).read(tmp_path / "a.png"), labels)


@given(stored=arrays(np.uint8, (7, 9)), values=st.dictionaries(st.integers(0, 255), st.sampled_from([0, 1, 2, 255])))
def test_a_remap_is_a_dictionary_look_up(stored: np.ndarray, values: dict[int, int]) -> None:
    reader = MaskReader(CLASSES, values=values)
    if set(np.unique(stored).tolist()) <= values.keys():
        expected = [[values[value] for value in row] for row in stored.tolist()]
        assert reader.decode(stored, Path("a.png")).tolist() == expected
        deep = MaskReader(CLASSES, values=values).decode(stored.astype(np.uint16), Path("a.png"))
        assert deep.tolist() == expected
    else:
        with pytest.raises(AtrousError, match="without a class"):
            reader.decode(stored, Path("a.png"))


@given(stored=arrays(np.uint8, (5, 6), elements=st.integers(0, 3)), seed=st.integers(0, 99))
def test_a_color_is_a_dictionary_look_up(stored: np.ndarray, seed: int) -> None:
    palette = np.random.default_rng(seed).choice(2**24, 4, replace=False)
    colors = {(int(p) >> 16, int(p) >> 8 & 255, int(p) & 255): label for label, p in enumerate(palette)}
    pixels = np.array(list(colors), np.uint8)[stored]
    read = MaskReader((*CLASSES, "sky"), colors=colors).decode(pixels, Path("a.png"))
    np.testing.assert_array_equal(read, stored)


@given(labels=arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30))))
def test_counts(labels: np.ndarray) -> None:
    expected = np.bincount(labels.reshape(-1), minlength=256)
    np.testing.assert_array_equal(count_labels(labels), expected)
    np.testing.assert_array_equal(count_labels(labels[:, ::-1]), expected)
    np.testing.assert_array_equal(count_labels(labels.astype(np.uint16))[:256], expected)
