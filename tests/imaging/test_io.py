"""Images of every kind, and files that are not images despite their names."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from atrous import AtrousError
from atrous.data import read_image
from tests.pictures import bomb


@pytest.fixture
def gradient() -> np.ndarray:
    """24 x 32, different in every channel and every direction."""
    y, x = np.mgrid[:24, :32]
    return np.dstack([x * 8, y * 10, 255 - x * 4 - y * 4]).astype(np.uint8)


def test_rgb_is_unchanged(gradient: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(gradient).save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(gradient), gradient):
        np.testing.assert_array_equal(read_image(source), gradient)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(gradient: np.ndarray, tmp_path: Path, orientation: int) -> None:
    turned = {
        1: gradient,
        2: gradient[:, ::-1],
        3: gradient[::-1, ::-1],
        4: gradient[::-1],
        5: gradient.transpose(1, 0, 2),
        6: np.rot90(gradient),
        7: np.rot90(gradient, 2).transpose(1, 0, 2),
        8: np.rot90(gradient, -1),
    }[orientation]  # what a camera held so stores
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), gradient)


def test_gray_palette_and_one_bit(gradient: np.ndarray) -> None:
    gray = gradient[..., 0]
    np.testing.assert_array_equal(read_image(Image.fromarray(gray)), np.dstack([gray] * 3))
    np.testing.assert_array_equal(read_image(gray), np.dstack([gray] * 3))
    palette = Image.fromarray(gradient).quantize(16)
    np.testing.assert_array_equal(read_image(palette), np.asarray(palette.convert("RGB")))
    assert set(np.unique(read_image(Image.fromarray(gray > 100)))) == {0, 255}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_blended_with_white(mode: str, tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 2), (10, 10, 10, 255))
    image.putpixel((0, 0), (10, 10, 10, 0))
    image.convert(mode).save(tmp_path / "a.png" if mode != "PA" else tmp_path / "a.tif") if mode != "PA" else None
    pixels = read_image(image.convert(mode))
    assert tuple(pixels[0, 0]) == (255, 255, 255)
    assert abs(int(pixels[1, 1, 0]) - 10) <= 1


def test_a_transparent_color_of_a_palette(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    assert read_image(tmp_path / "a.png").tolist() == [[[255, 255, 255], [0, 0, 200]]]


def test_cmyk(gradient: np.ndarray, tmp_path: Path) -> None:
    image = Image.fromarray(gradient).convert("CMYK")
    image.save(tmp_path / "a.tif")
    image.save(tmp_path / "a.jpg", quality=100)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.asarray(image.convert("RGB")))
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - gradient).mean() < 8


def test_16_bits_are_scaled_to_8(tmp_path: Path) -> None:
    deep = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., 1], np.arange(256).reshape(16, 16))


def test_floats_have_no_known_range() -> None:
    with pytest.raises(AtrousError, match="range is unknown"):
        read_image(Image.fromarray(np.zeros((4, 4), np.float32)))


def test_tensors(gradient: np.ndarray) -> None:
    tensor = torch.from_numpy(gradient).permute(2, 0, 1)
    np.testing.assert_array_equal(read_image(tensor), gradient)
    np.testing.assert_array_equal(read_image(tensor / 255), gradient)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "is float32; expected uint8"),
        (np.zeros((3, 4, 4), np.uint8), r"shape \(3, 4, 4\); expected \(height, width, 3\) or \(height, width\)"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (torch.zeros(4, 4, 3), r"shape \(4, 4, 3\); expected \(3, height, width\)"),
        (torch.full((3, 4, 4), -2.0), "not normalized yet"),
        (torch.full((3, 4, 4), float("nan")), "not normalized yet"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "is torch.int64; expected uint8"),
        (7, "from int: give a path"),
    ],
)
def test_invalid_inputs_are_refused_by_name(source, message: str) -> None:
    with pytest.raises(AtrousError, match=message):
        read_image(source)


def test_a_missing_file_gets_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(AtrousError, match=r"no such file\. Did you mean 'photo.jpg'"):
        read_image(tmp_path / "foto.jpg")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match="is a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("contents", [b"", b"hello, I am a text", b"\xff\xd8\xff\xe0"])
def test_a_text_file_with_the_name_of_an_image(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(contents)
    with pytest.raises(AtrousError, match=r"a\.jpg"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
def test_truncated_files(gradient: np.ndarray, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(gradient).resize((400, 300)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(AtrousError, match=f"a\\{suffix}"):
        read_image(path)


def test_a_decompression_bomb_is_refused_before_decoding(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb(100_000, 100_000))
    with pytest.raises(AtrousError, match="too large, over 179 megapixels, and is not decoded"):
        read_image(tmp_path / "bomb.png")


def test_a_damaged_avif_is_an_error_that_names_it(tmp_path: Path) -> None:
    if not features.check("avif"):
        pytest.skip("Pillow was built without AVIF")
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(content, format="AVIF")
    data = content.getvalue()
    path, messages = tmp_path / "a.avif", []
    for end in range(20, len(data), 7):
        path.write_bytes(data[:end] + bytes(len(data) - end))
        try:
            read_image(path)
        except AtrousError as error:
            messages.append(str(error))
    assert messages
    assert all(message.startswith(str(path)) for message in messages)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_bytes_and_file_objects_are_read_like_files(gradient: np.ndarray, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(gradient).save(path)
    expected, content = read_image(path), path.read_bytes()
    with path.open("rb") as file:
        for source in (content, bytearray(content), memoryview(content), io.BytesIO(content), file):
            np.testing.assert_array_equal(read_image(source), expected)


def test_damaged_bytes_and_files_opened_wrongly_are_refused(gradient: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(gradient).save(path)
    with pytest.raises(AtrousError, match=r"the image: the file is empty"):
        read_image(b"")
    with pytest.raises(AtrousError, match=r"the image: not an image in any known format\. Save"):
        read_image(b"not an image")
    with pytest.raises(AtrousError, match="the image: the image is truncated"):
        read_image(path.read_bytes()[:-20])
    with pytest.raises(AtrousError, match="too large"):
        read_image(bomb(60000, 60000))
    with path.open(encoding="latin-1") as file, pytest.raises(AtrousError, match=r"a\.jpg: read\(\) returns str; open"):
        read_image(file)
    with pytest.raises(AtrousError, match=r"a\.jpg: cannot be read \(.*closed"):
        read_image(file)
    with pytest.raises(AtrousError, match="Cannot read an image from int"):
        read_image(3)
