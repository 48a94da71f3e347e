from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run


def test_explain_prints_stages_or_layers(run: Run) -> None:
    result = run("explain", "deeplab_v3.mobilenet_v2", "--output-stride", "8", "--size", "257x129")
    assert result.code == 0, result.err
    assert "backbone.features.17" in result.out
    assert "33x17" in result.out
    assert "2,113,557 parameters" in result.out
    assert "features.17.conv.1.0" in run("explain", "deeplab_v3.mobilenet_v2", "--layers").out


def test_explain_prints_fields_of_view(run: Run) -> None:
    (row,) = [line for line in run("explain", "deeplab_v2.vgg16").out.splitlines() if line.startswith("aspp")]
    assert "128, 224, 320, 416" in row


def test_explain_prints_and_draws_valid_weights(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "curve.svg"
    arguments = ("--size", "513", "--output-stride", "8", "--valid-weights", "-o", str(path))
    result = run("explain", "deeplab_v3.resnet101", *arguments)
    assert result.code == 0, result.err
    assert "65 x 65 at output stride 8" in result.out
    rows = [line for line in result.out.splitlines() if "%" in line]
    assert len(rows) == 64
    assert rows[0].split()[:4] == ["1", "93.9%", "0.1%", "0.0%"]
    assert [line.split()[0] for line in rows if line.startswith("*")] == ["*", "*", "*"]
    assert rows[35].split()[:5] == ["*", "36", "0.0%", "79.6%", "1.2%"]
    assert path.read_text().startswith("<?xml")
    assert "33 x 33 at output stride 16" in run("explain", "deeplab_v3.resnet101", "--valid-weights").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("deeplab_v3.resnet5",), "Did you mean 'deeplab_v3.resnet50'"),
        (("deeplab_v3.resnet50", "--size", "513x"), "1025x2049"),
        (("deeplab_v3.resnet50", "--size", "1x2x3"), "1025x2049"),
        (("deeplab_v3.resnet50", "-o", "curve.svg"), "add --valid-weights"),
        (("unet.padded", "--valid-weights"), "unet.padded has no backbone"),
        (("deeplab_v3.resnet50", "--valid-weights", "-o", "curve.pdf"), ".svg or .png"),
        (("deeplab_v3.resnet50", "--output-stride", "12"), "this network runs at"),
    ],
)
def test_explain_reports_invalid_arguments(run: Run, arguments: tuple[str, ...], message: str) -> None:
    result = run("explain", *arguments)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1
