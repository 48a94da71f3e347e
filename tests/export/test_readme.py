"""The README of a repository on the hub."""

from __future__ import annotations

import re

import pytest
import yaml

from atrous.card import Card
from atrous.export.readme import MANY_CLASSES, Contents, write_readme
from atrous.imaging.labels import voc_color_map
from atrous.marks import _MARK

CONTENTS = Contents("me/street", "model.safetensors", 7_862_054, 3_864_379, "example.jpg", "A street")


def test_metadata_tell_the_hub_what_it_is(hub_card: Card) -> None:
    metadata = yaml.safe_load(write_readme(hub_card, CONTENTS).split("---")[1])
    assert metadata["library_name"] == "atrous"
    assert metadata["license"] == "apache-2.0"
    assert metadata["pipeline_tag"] == "image-segmentation"
    assert metadata["tags"] == ["atrous", "semantic-segmentation", "pytorch", "deeplab-v3"]
    measured, published = metadata["model-index"][0]["results"]
    assert measured["metrics"] == [{"type": "mean_iou", "name": "mIoU", "value": 12.34}]
    assert published["metrics"][0]["name"] == "pixel accuracy (published)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MIT", {"license": "mit"}),
        ("unknown", {"license": "unknown"}),
        ("MIT; data for research", {"license": "other", "license_name": "mit-data-for-research"}),
        ("///", {"license": "other", "license_name": "custom"}),
    ],
)
def test_licenses(text: str, expected: dict[str, str], hub_card: Card) -> None:
    readme = write_readme(hub_card.model_copy(update={"license": text}), CONTENTS)
    metadata = yaml.safe_load(readme.split("---")[1])
    assert expected.items() <= metadata.items()
    assert ("license_link" in metadata) == (expected["license"] == "other")
    assert f"## License\n\n{text}" in readme


def test_it_tells_use_figures_and_citation(hub_card: Card) -> None:
    text = write_readme(hub_card, CONTENTS)
    assert "atrous predict photograph.jpg -w hf://me/street" in text
    assert 'Segmenter.load("hf://me/street")' in text
    assert "| mIoU | 12.34 |" in text
    assert "```bash\natrous evaluate -w a | tee log\n```" in text
    assert "not measured with atrous" in text
    assert "3,864,379" in text
    assert "7.9 MB" in text
    assert "arxiv.org/abs/1706.05587" in text
    assert "eprint = {1706.05587}" in text
    assert "shorter side has 65 pixels" in text
    mark = _MARK.search(text.encode())
    assert mark is not None
    assert mark[1] == b"push"


def test_text_of_a_card_is_no_markup(hub_card: Card) -> None:
    markdown = pytest.importorskip("markdown").markdown
    hostile = "a ![x](http://x/y.png) <script>alert(1)</script> | --- $x$ \n# title"
    card = hub_card.model_copy(update={"source": hostile, "trained_on": hostile, "license": hostile})
    html = markdown(write_readme(card, CONTENTS).split("---", 2)[2], extensions=["tables", "fenced_code"])
    assert "<script" not in html
    assert html.count("<img") == 1
    assert html.count("<h1>") == 1
    cells = re.findall(r"<td[^>]*>(.*?)</td>", html)
    assert "cat | dog" in cells
    assert "&lt;b&gt;tree&lt;/b&gt;" in cells


def test_many_classes_are_folded(hub_card: Card) -> None:
    names, colors = tuple(map(str, range(MANY_CLASSES))), voc_color_map(MANY_CLASSES)
    many = hub_card.model_copy(update={"classes": names, "colors": colors})
    assert "<details>" in write_readme(many, CONTENTS)
    assert "<details>" not in write_readme(hub_card, CONTENTS)


def test_a_card_with_nothing_but_the_necessary(hub_card: Card) -> None:
    bare = Card(model="unet.padded", classes=("cell",), colors=((1, 2, 3),), preprocessing=hub_card.preprocessing)
    text = write_readme(bare, Contents("me/cells", "model.safetensors", 10, 10))
    assert "## Results" not in text
    assert "![" not in text
    assert "into 1 class by" in text
    assert "names none" in text
