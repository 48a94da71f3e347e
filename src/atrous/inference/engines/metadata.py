"""The metadata inside a converted network: its card, and what inference needs to know besides the scores."""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationError

from atrous.card import Card
from atrous.errors import AtrousError
from atrous.schema import StrictModel, describe_error

METADATA_KEY = "atrous"
"""The key of the metadata, as JSON, in the properties of an ONNX file or of an OpenVINO model."""
CHECKSUM_KEY = "atrous_bin_sha256"
"""The key of the SHA-256 of an OpenVINO model's `.bin` file, in its `.xml` file."""

Precision = Literal["float32", "bfloat16", "int8"]
"""The data type that convolutions are computed in."""


class InvalidFileError(AtrousError):
    """A file of a converted network that is damaged, or was not written by atrous."""


class NetworkMetadata(StrictModel):
    """The metadata of a network that was converted for another runtime."""

    version: Literal[1] = 1
    """The version of this format."""
    card: Card
    """The card of the weights."""
    output_stride: int
    """The output stride the network was converted at."""
    possible_output_strides: tuple[int, ...]
    """The output strides at which the network can be converted."""
    align_corners: bool
    """Whether resizing the scores aligns the corners of the maps."""
    output_is_resized_scores: bool
    """Whether the outputs are low-resolution logits; False for logits at the size of the image."""
    bytes_per_pixel: float
    """The estimated peak memory of a forward pass, in bytes per pixel of the input."""
    precision: Precision = "float32"
    """The precision of the stored network: "int8" for a quantized one."""

    output: Literal["scores", "labels"] = "scores"
    """What the file computes: scores of preprocessed images, or labels of 8-bit images."""
    size: tuple[int, int] | None = None
    """The height and width of the input if they are fixed."""

    @classmethod
    def read(cls, text: str | None, source: str) -> NetworkMetadata:
        """Parse the metadata of a converted network from their JSON text.

        Raises: `AtrousError` naming the file (`source`) for missing or invalid metadata.
        """
        if not text:
            raise InvalidFileError(
                f"{source}: this file has no card, so its classes and preprocessing are unknown; it was not written by "
                "atrous. Convert the weights with `atrous export`."
            )
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            problem = describe_error(error, "the metadata")
            raise InvalidFileError(
                f"{source}: the metadata is invalid: {problem}. Export the weights again."
            ) from error


def encode_metadata(key: str, value: str) -> bytes:
    """Encode a metadata property that, appended to the content of an ONNX file, becomes part of it.

    ONNX files are protocol buffers, in which two concatenated messages are one that has the fields of both.

    Source: `ModelProto.metadata_props` (field 14) and `StringStringEntryProto` (fields 1 and 2) of `onnx.proto`.
    """
    return _field(14, _field(1, key.encode()) + _field(2, value.encode()))


def _field(number: int, content: bytes) -> bytes:
    """Encode a field of variable length: its number and wire type (2), its length, its content."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])
