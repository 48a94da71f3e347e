from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from atrous import AtrousError
from atrous.data import open_dataset
from atrous.data.datasets import voc
from tests.data_fixtures import Write, photograph


@pytest.fixture
def root(tmp_path: Path, write: Write) -> Path:
    square = [[10, 10, 50, 10, 50, 50, 10, 50]]
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 17, "segmentation": square, "area": 1600},
        {
            "id": 2,
            "image_id": 1,
            "category_id": 18,
            "segmentation": [[40, 10, 90, 10, 90, 50, 40, 50]],
            "area": 2000,
        },
        {"id": 3, "image_id": 2, "category_id": 1, "segmentation": [[0, 0, 20, 0, 20, 20, 0, 20]], "area": 400},
        {"id": 4, "image_id": 3, "category_id": 88, "segmentation": square, "area": 1600},
        {
            "id": 5,
            "image_id": 3,
            "category_id": 3,
            "iscrowd": 1,
            "segmentation": {"counts": [100 * 60 - 60, 60], "size": [60, 100]},
            "area": 60,
        },
    ]
    for number in (1, 2, 3):
        write(tmp_path / f"train2017/{number:012}.jpg", photograph(number, (60, 100)))
    images = [{"id": n, "file_name": f"{n:012}.jpg", "height": 60, "width": 100} for n in (1, 2, 3)]
    content = json.dumps({"images": images, "annotations": annotations, "categories": []})
    write(tmp_path / "annotations/instances_train2017.json", content)
    return tmp_path


def test_subsets_of_the_papers(root: Path) -> None:
    counts = {subset: len(open_dataset(f"coco_voc:{root}", subset=subset)) for subset in ("", "v3", "crf_rnn", "all")}
    assert counts == {"": 1, "v3": 1, "crf_rnn": 2, "all": 3}


@pytest.mark.parametrize(("area", "kept"), [(1000.0, 0), (1000.5, 1), (1001.0, 1)])
def test_v3_keeps_images_with_more_than_1000_pixels(tmp_path: Path, write: Write, area: float, kept: int) -> None:
    square = {"id": 1, "image_id": 1, "category_id": 17, "segmentation": [[0, 0, 9, 0, 9, 9]], "area": area}
    image = {"id": 1, "file_name": "1.jpg", "height": 60, "width": 100}
    content = json.dumps({"images": [image], "annotations": [square], "categories": []})
    write(tmp_path / "annotations/instances_train2017.json", content)
    (tmp_path / "train2017").mkdir()
    assert len(open_dataset(f"coco_voc:{tmp_path}")) == kept


def test_regions(root: Path) -> None:
    dataset = open_dataset(f"coco_voc:{root}", subset="all")
    labels = dataset[0].labels
    cat, dog = voc.CLASSES.index("cat"), voc.CLASSES.index("dog")
    assert labels[30, 20] == cat
    assert labels[30, 80] == dog
    assert labels[30, 45] == 255  # both
    assert labels[5, 5] == 0
    assert abs((labels == cat).sum() - 30 * 40) <= 80
    person = voc.CLASSES.index("person")
    assert abs((dataset[1].labels == person).sum() - 400) <= 41
    crowd = dataset[2].labels
    assert (crowd[:, -1] == voc.CLASSES.index("car")).all()
    assert (crowd[:, :-1] == 0).all()
    assert pickle.loads(pickle.dumps(dataset))[0].labels.tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a JSON file"),
        ("[]", "'images' is missing; expected COCO annotations"),
        ('{"images": [], "annotations": [{"category_id": 1}]}', "KeyError: 'image_id'"),
        ('{"images": [{}], "annotations": []}', "not as in COCO's annotations"),
    ],
)
def test_damaged_annotations(root: Path, write: Write, content: str, message: str) -> None:
    path = write(root / "annotations/instances_train2017.json", content)
    with pytest.raises(AtrousError, match=message) as caught:
        open_dataset(f"coco_voc:{root}")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("change", [{"area": 10**400}, {"segmentation": [[1, 10**400, 2, 2, 3, 3]]}])
def test_numbers_that_no_float_holds(root: Path, change: dict[str, object]) -> None:
    path = root / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation |= change
    path.write_text(json.dumps(content))
    with pytest.raises(AtrousError, match=r"an entry is not as in COCO's annotations .*too large"):
        open_dataset(f"coco_voc:{root}")


def test_run_lengths_of_another_size(root: Path) -> None:
    path = root / "annotations/instances_train2017.json"
    path.write_text(path.read_text().replace("5940, 60", "5940, 61"))
    with pytest.raises(AtrousError, match="annotation 5 cover 6001 pixels; expected 100 x 60"):
        open_dataset(f"coco_voc:{root}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 10**6, "width": 10**6}, "an image of 1000000 x 1000000"),
        ({"height": "20"}, "height '20'"),
        ({"width": 0}, "width 0"),
    ],
)
def test_sizes_that_no_image_has(root: Path, change: dict[str, object], message: str) -> None:
    path = root / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["images"][0] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(AtrousError, match=f"an entry is not as in COCO's annotations .*{message}"):
        open_dataset(f"coco_voc:{root}?subset=all")


def test_a_polygon_far_outside_its_image(root: Path) -> None:
    """OpenCV would fill it for hours."""
    path = root / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    polygons = next(each for each in content["annotations"] if isinstance(each["segmentation"], list))
    polygons["segmentation"][0][2] = 1e9
    path.write_text(json.dumps(content))
    with pytest.raises(AtrousError, match=r"a polygon of annotation .* is far outside its image"):
        open_dataset(f"coco_voc:{root}?subset=all")
