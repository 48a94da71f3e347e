"""Images of every kind, and files that are not images despite their names."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from atrous import AtrousError
from atrous.data import read_image
from atrous.files import DiskFullError
from atrous.imaging.io import DOCUMENTS, IMAGE_SUFFIXES, save_image
from atrous.imaging.pixel_limit import set_max_pixels
from tests.data_fixtures import photograph
from tests.full_disk import file_size_limit
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


@pytest.mark.parametrize(("suffix", "options"), [(".png", {}), (".tif", {}), (".tif", {"compression": "tiff_deflate"})])
def test_the_limit_of_pixels_is_raised_and_lowered(
    gradient: np.ndarray, tmp_path: Path, suffix: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    monkeypatch.setattr("atrous.imaging.pixel_limit.MAX_PIXELS", 600)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(gradient).save(path, **options)
    with pytest.raises(AtrousError, match=r"--max-pixels 768 \(in Python .*set_max_pixels\(768\)\)"):
        read_image(path)
    with pytest.raises(AtrousError, match=r"too large, over 0\.000767 megapixels"):
        read_image(path, max_pixels=767)
    np.testing.assert_array_equal(read_image(path, max_pixels=768), gradient)
    set_max_pixels(768)
    for source in (path, path.read_bytes(), Image.fromarray(gradient)):
        np.testing.assert_array_equal(read_image(source), gradient)
    set_max_pixels(None)
    with pytest.raises(AtrousError, match="too large"):
        read_image(Image.fromarray(gradient))
    assert Image.MAX_IMAGE_PIXELS == 300


@pytest.mark.parametrize("count", [0, -1])
def test_a_limit_of_pixels_is_positive(count: int) -> None:
    with pytest.raises(AtrousError, match="expected a positive number"):
        set_max_pixels(count)


def test_a_limit_in_the_environment_is_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    monkeypatch.setenv("ATROUS_MAX_PIXELS", "many")
    with pytest.raises(AtrousError, match="ATROUS_MAX_PIXELS=many: expected a number of pixels"):
        read_image(tmp_path / "a.png")


def _write_tiff(path: Path, values: np.ndarray, sample_format: int) -> None:
    """Write a TIFF of an array (H, W, C), uncompressed, as satellites' images are stored."""
    height, width, channels = values.shape
    bits = values.dtype.itemsize * 8
    entries = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * channels), 259: (3, [1]), 262: (3, [1]), 273: (4, [0]),
        277: (3, [channels]), 278: (4, [height]), 279: (4, [values.nbytes]), 284: (3, [1]),
        339: (3, [sample_format] * channels),
    }  # fmt: skip
    start = 8 + 2 + 12 * len(entries) + 4
    extra = b""
    table = struct.pack("<H", len(entries))
    entries[273] = (4, [start + 2 * 2 * channels])
    for tag, (kind, numbers) in entries.items():
        packed = struct.pack(f"<{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        if len(packed) > 4:
            extra += packed
            packed = struct.pack("<I", start + len(extra) - len(packed))
        table += struct.pack("<HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    assert len(extra) in (0, 2 * 2 * channels)
    path.write_bytes(
        struct.pack("<2sHI", b"II", 42, 8) + table + bytes(4) + extra.ljust(4 * channels) + values.tobytes()
    )


@pytest.mark.parametrize(
    ("dtype", "channels", "sample_format", "named"),
    [
        ("float32", 3, 3, "a TIFF of 3 channels of 32-bit floats, which is not read"),
        ("float64", 1, 3, "a TIFF of 1 channel of 64-bit floats, which is not read"),
        ("float32", 1, 3, "an image of floats, whose range is unknown, is not read"),
        ("uint16", 6, 1, "a TIFF of 6 channels of 16-bit integers, which is not read"),
    ],
)
def test_tiffs_of_other_pixels_are_named(
    tmp_path: Path, dtype: str, channels: int, sample_format: int, named: str
) -> None:
    _write_tiff(tmp_path / "a.tif", np.ones((4, 5, channels), dtype), sample_format)
    with pytest.raises(AtrousError, match=rf"a\.tif: {named}\. Convert three channels to 8 bits, .* gdal_translate"):
        read_image(tmp_path / "a.tif")
    with pytest.raises(AtrousError, match=named):
        read_image((tmp_path / "a.tif").read_bytes())


def test_a_damaged_tiff_is_no_image(tmp_path: Path) -> None:
    _write_tiff(tmp_path / "a.tif", np.ones((4, 5, 3), np.float32), 3)
    content = (tmp_path / "a.tif").read_bytes()
    for end in range(1, 150, 5):
        with pytest.raises(AtrousError, match="the image: "):
            read_image(content[:end])


def test_programs_and_data_are_not_images(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    with pytest.raises(AtrousError, match="EPS is not a format of images"):
        read_image(tmp_path / "a.eps")


def test_folders_take_every_suffix_of_a_format_that_is_read() -> None:
    Image.init()
    readable = {
        suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN and name not in DOCUMENTS
    }
    assert readable <= set(IMAGE_SUFFIXES)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".bmp"])
def test_a_full_disk_leaves_no_part_of_an_image(tmp_path: Path, suffix: str) -> None:
    """Pillow itself leaves the beginning of a JPEG without a word."""
    with file_size_limit(1000), pytest.raises(DiskFullError, match=r"Cannot write .* Free disk space"):
        save_image(photograph(0, (64, 64)), tmp_path / f"a{suffix}")
    assert not list(tmp_path.iterdir())
