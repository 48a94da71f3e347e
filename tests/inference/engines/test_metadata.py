from __future__ import annotations

import pytest

from atrous import AtrousError
from atrous.inference.engines.metadata import NetworkMetadata
from tests.inference.networks import letter_card


def metadata(**changes: object) -> NetworkMetadata:
    values = {
        "card": letter_card(False),
        "output_stride": 16,
        "possible_output_strides": (8, 16),
        "align_corners": False,
        "output_is_resized_scores": True,
        "bytes_per_pixel": 100.5,
    }
    return NetworkMetadata(**(values | changes))


def test_reads_what_it_writes() -> None:
    for written in (metadata(), metadata(precision="int8", possible_output_strides=(16,))):
        assert NetworkMetadata.read(written.model_dump_json(), "a.onnx") == written


@pytest.mark.parametrize("text", [None, ""])
def test_missing_metadata(text: str | None) -> None:
    with pytest.raises(AtrousError, match=r"a\.onnx: this file has no card"):
        NetworkMetadata.read(text, "a.onnx")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "Invalid JSON"),
        ('{"output_strid": 8}', r"no key 'output_strid'.*output_stride"),
        (metadata().model_dump_json().replace('"version":1', '"version":9', 1), "version"),
    ],
)
def test_invalid_metadata(text: str, problem: str) -> None:
    with pytest.raises(AtrousError, match=rf"a\.onnx: the metadata is invalid: .*{problem}.*Export the weights again"):
        NetworkMetadata.read(text, "a.onnx")
