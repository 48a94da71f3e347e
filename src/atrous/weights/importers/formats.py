"""Recognize the format of a file of weights by its content, without torch; the name of a file decides nothing."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from atrous.errors import AtrousError
from atrous.weights.tensors import damaged_file_error

TABLE_MAGIC = bytes.fromhex("57fb808b247547db")
"""The last 8 bytes of LevelDB tables, such as the index of a TensorFlow checkpoint."""
GZIP_MAGIC = b"\x1f\x8b"

_CHECKPOINT_FILE = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
_HEAD = 512
_TAIL = 64
_MAX_HEADER = 100_000_000
"""The longest header of a safetensors file that the safetensors library accepts."""


@dataclass(frozen=True)
class Content:
    """The beginning and the end of a file."""

    path: Path
    head: bytes
    tail: bytes

    @classmethod
    def read(cls, path: Path) -> Content:
        """Read the beginning and the end of a file.

        Raises: `AtrousError` for a file that is not readable.
        """
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD)
                file.seek(max(0, file.seek(0, 2) - _TAIL))
                return cls(path, head, file.read())
        except OSError as error:
            raise AtrousError(f"{path}: cannot read this file: {error.strerror or error}.") from error


@dataclass(frozen=True)
class Format:
    """A file format that is read: how it is recognized, and the module of this package with `read(path)`."""

    name: str
    """The noun for messages, such as "TensorFlow Lite graph"."""
    suffixes: tuple[str, ...]
    """Usual suffixes of its files, for messages."""
    recognizes: Callable[[Content], bool]
    module: str


def _is_safetensors(content: Content) -> bool:
    return content.head[8:9] == b"{" and int.from_bytes(content.head[:8], "little") <= _MAX_HEADER


def _is_torch(content: Content) -> bool:
    """Recognize torch.save: a ZIP archive, or in early versions pickles of protocol 2 and later."""
    return content.head.startswith(b"PK\x03\x04") or (content.head[:1] == b"\x80" and content.head[1:2] in b"\2\3\4\5")


def _is_caffemodel(content: Content) -> bool:
    """Recognize a message of protocol buffers whose fields are the network's name, a text, and its layers."""
    head = content.head
    if head[:1] != b"\x0a":
        return head.startswith((b"\x12", b"\xa2\x06"))  # layers of either generation
    end = 2 + int.from_bytes(head[1:2], "little")
    name, following = head[2:end], head[end : end + 2]
    return name.decode("latin-1").isprintable() and following.startswith((b"\x12", b"\x1a", b"\x28", b"\xa2\x06"))


def checkpoint_index(path: Path) -> Path | None:
    """Find the index of the TensorFlow checkpoint that a path means: its prefix, or one of its files; else None."""
    if not path.name:
        return None
    prefixes = (path.name, _CHECKPOINT_FILE.sub("", path.name))
    return next((index for name in prefixes if (index := path.with_name(f"{name}.index")).is_file()), None)


def _is_tensorflow(content: Content) -> bool:
    """Recognize a TensorFlow checkpoint by its index, a LevelDB table, or a file of values beside such an index."""
    return content.tail.endswith(TABLE_MAGIC) or checkpoint_index(content.path) is not None


def _is_tar_gz(content: Content) -> bool:
    if not content.head.startswith(GZIP_MAGIC):
        return False
    with suppress(zlib.error):
        return zlib.decompressobj(31).decompress(content.head, 512)[257:262] == b"ustar"
    return False


def _is_frozen_graph(content: Content) -> bool:
    """Recognize TensorFlow's GraphDef: it begins with a node, which begins with its name."""
    return re.match(rb"\x0a[\x80-\xff]*[\0-\x7f]\x0a", content.head) is not None


SAFETENSORS = Format("safetensors file", (".safetensors",), _is_safetensors, "state_dict")

FORMATS = (
    SAFETENSORS,
    Format("PyTorch state dict", (".pth", ".pt"), _is_torch, "state_dict"),
    Format("TensorFlow checkpoint", (".index",), _is_tensorflow, "tensorflow"),
    Format("archive of TensorFlow's model zoo", (".tar.gz",), _is_tar_gz, "tensorflow"),
    Format("TensorFlow frozen graph", (".pb",), _is_frozen_graph, "tensorflow"),
    Format("TensorFlow Lite graph", (".tflite",), lambda content: content.head[4:8] == b"TFL3", "tflite"),
    Format("Caffe network", (".caffemodel",), _is_caffemodel, "caffe"),
)
"""The formats that are read, in the order in which they are tried."""


def _is_text(content: Content) -> bool:
    return content.head.isascii() and "".join(content.head.decode("ascii").split()).isprintable()


_OTHERS: tuple[tuple[str, Callable[[Content], bool]], ...] = (
    ("an empty file", lambda content: not content.head),
    (
        "a Git LFS pointer: get the file itself with `git lfs pull`",
        lambda content: content.head.startswith(b"version https://git-lfs"),
    ),
    (
        "a web page: the download failed",
        lambda content: content.head.lstrip()[:9].lower() in (b"<!doctype", b"<html>", b"<html lan"),
    ),
    ("an HDF5 file, as of Keras", lambda content: content.head.startswith(b"\x89HDF\r\n\x1a\n")),
    ("a NumPy array", lambda content: content.head.startswith(b"\x93NUMPY")),
    ("a gzip archive", lambda content: content.head.startswith(GZIP_MAGIC)),
    (
        "an ONNX graph, which is used as it is if its name ends in .onnx",
        lambda content: content.head[:1] == b"\x08" and b"\x12" in content.head[2:4],
    ),
    ("a text file", _is_text),
)
"""Formats that are not read, by the words in which messages name them."""


def list_files(path: Path) -> list[Path]:
    """List the files that hold the weights of a file: itself, and those that are read with it, by their names.

    They are the index of a TensorFlow checkpoint, whose checksums stand for all values, and the other half of a network
    whose encoder and decoder are in two files.
    """
    names = [_CHECKPOINT_FILE.sub(".index", path.name)]
    names += [path.name.replace(own, other, 1) for own, other in (("encoder", "decoder"), ("decoder", "encoder"))]
    others = (path.with_name(name) for name in names if name != path.name)
    return [path, *(other for other in others if other.is_file())]


def digest_files(path: Path) -> str:
    """Compute the SHA-256 of a file of weights, and those of the files that are read with it, separated by spaces."""
    from atrous.weights.download import compute_sha256

    return " ".join(map(compute_sha256, list_files(path)))


def suffixes() -> tuple[str, ...]:
    """List the usual suffixes of the files that are read."""
    return tuple(suffix for entry in FORMATS for suffix in entry.suffixes)


def is_safetensors(path: Path) -> bool:
    """Tell whether a file begins as a safetensors file."""
    return _is_safetensors(Content.read(path))


def find_format(path: Path) -> Format:
    """Find the format of a file by its content.

    Raises: `AtrousError` for another format, naming what was found and what is read.
    """
    content = Content.read(path)
    for entry in FORMATS:
        if entry.recognizes(content):
            return entry
    other = next((name for name, recognizes in _OTHERS if recognizes(content)), "")
    named = next((entry for entry in FORMATS if path.suffix in entry.suffixes), None)
    if named and (not other or not content.head):
        raise damaged_file_error(path, f"it does not begin as a {named.name}")
    readable = ", ".join(f"{entry.name} ({', '.join(entry.suffixes)})" for entry in FORMATS)
    other = other or f"unknown content beginning with the bytes {content.head[:8].hex(' ')}"
    raise AtrousError(f"{path}: cannot import weights from this file. Found {other}; expected one of: {readable}.")
