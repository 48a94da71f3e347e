"""The metadata inside a converted network: its card, and what inference needs to know besides the scores."""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationError

from atrous.card import Card
from atrous.errors import AtrousError
from atrous.schema import StrictModel, describe_error

METADATA_KEY = "atrous"
"""The key of the metadata, as JSON, in the properties of an ONNX file or of an OpenVINO model."""

Precision = Literal["float32", "bfloat16", "int8"]
"""The data type that convolutions are computed in."""


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

    @classmethod
    def read(cls, text: str | None, source: str) -> NetworkMetadata:
        """Parse the metadata of a converted network from their JSON text.

        Raises: `AtrousError` naming the file (`source`) for missing or invalid metadata.
        """
        if not text:
            raise AtrousError(
                f"{source}: this file has no card, so its classes and preprocessing are unknown; it was not written by "
                "atrous. Convert the weights with `atrous export`."
            )
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            problem = describe_error(error, "the metadata")
            raise AtrousError(f"{source}: the metadata is invalid: {problem}. Export the weights again.") from error
