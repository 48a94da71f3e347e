from __future__ import annotations

from pathlib import Path

import pytest

from atrous import AtrousError
from atrous.data import MaskReader, open_dataset
from atrous.data.classes_yaml import ClassConfig, FolderConfig
from tests.data_fixtures import Write


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: [a]", "at least 2"),
        ("classes: [a, a]", "'a' is listed twice"),
        ("classes: [a, yes]", "classes.1"),
        ("clases: [a, b]", "classes"),
        ("classes: [a, b]\nmask: masks", "Did you mean 'masks'"),
        ("classes: [a, {name: b, values: [0]}]", "the value 0 belongs to both 'a' and 'b'"),
        ("classes: [a, {name: b, values: [70000]}]", "65535"),
        ("classes: [a, {name: b, color: red}]", "color"),
        ("classes: [a, b, c]\ncoding: color", "needs a different color for every class"),
        ("classes: [a, b, c]\nsplits: {train: 0.8, val: 0.3}", "with a sum of at most 1"),
        ("classes: [a, b, c]\nimages: photos", "expected photos in this folder"),
        ("classes: [a, b", "not readable as YAML"),
        ("7", "the file: expected a mapping of classes, ignore"),
    ],
)
def test_invalid_files(own: Path, write: Write, text: str, message: str) -> None:
    write(own / "classes.yaml", text)
    with pytest.raises(AtrousError) as caught:
        open_dataset(own)
    assert message in str(caught.value)


def test_missing_classes_yaml(own: Path) -> None:
    (own / "classes.yaml").unlink()
    with pytest.raises(AtrousError, match=r"lists the classes of the masks.*atrous data init"):
        open_dataset(own)


def test_british_keys_of_version_0_1_are_read(own: Path, write: Write) -> None:
    classes = "[{name: a, colour: '#010203'}, {name: b, colour: [4, 5, 6]}, {name: c, colour: [7, 8, 9]}]"
    write(own / "classes.yaml", f"classes: {classes}\ncoding: colour")
    dataset = open_dataset(own)
    assert dataset.colors == ((1, 2, 3), (4, 5, 6), (7, 8, 9))
    assert isinstance(dataset.reader, MaskReader)
    assert dataset.reader.by_color
    write(own / "classes.yaml", "classes: [{name: a, colr: '#010203'}, b]")
    with pytest.raises(AtrousError, match=r"classes\.yaml: classes\.0: there is no key 'colr'\. Did you mean 'color'"):
        open_dataset(own)


@pytest.mark.parametrize("model", [ClassConfig, FolderConfig])
def test_every_key_has_a_description(model: type[FolderConfig]) -> None:
    assert [name for name, field in model.model_fields.items() if not field.description] == []
