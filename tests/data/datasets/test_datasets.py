"""Every data set, from its real files where they are at hand, else from small ones in the official layout."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous import AtrousError
from atrous.data import Item, MaskReader, SegmentationDataset, open_dataset
from atrous.data.catalog import DatasetSpec, list_datasets
from atrous.data.datasets import ade20k, camvid, cityscapes, coco, pascal_context, person_part, voc
from atrous.imaging.labels import count_labels, pack_rgb, read_raw_mask, save_labels, voc_color_map
from tests.data_fixtures import Write, photograph
from tests.pictures import bomb

REAL = [
    ("camvid:{}/camvid", 367, 11),
    ("camvid:{}/camvid?split=val", 101, 11),
    ("voc2012:{}/voc2012", 311, 21),
    ("voc2012:{}/voc2012?split=val", 161, 21),
    ("cityscapes:{}/cityscapes", 2, 19),
    ("cityscapes:{}/cityscapes?split=val", 1, 19),
    ("ade20k:{}/samples/ade20k?split=val", 3, 150),
    ("coco_stuff:{}/samples/coco_stuff?images=.&masks=.", 3, 171),
    ("coco_stuff:{}/samples/coco_stuff?images=.&masks=.&classes=182", 3, 182),
    (
        "coco_panoptic:{}/samples/coco_panoptic?images=input_images&masks=panoptic_examples&annotations="
        "panoptic_examples.json",
        2,
        133,
    ),
    ("coco_voc:{}/samples/coco_panoptic?split=input_images&instances=panoptic_coco_detection_format.json", 2, 21),
    ("pascal_context:{}/samples/pascal_context?split=all&images=.&masks=.", 4, 60),
    ("pascal_context:{}/samples/pascal_context?split=all&images=.&masks=.&classes=59", 4, 59),
    ("person_part:{}/samples/person_part?split=all&images=.&masks=.", 4, 7),
]


@pytest.mark.parametrize(("spec", "count", "classes"), REAL)
def test_real_files(shared_data: Path, spec: str, count: int, classes: int) -> None:
    dataset = open_dataset(spec.format(shared_data))
    assert len(dataset) == count
    assert len(dataset.classes) == len(dataset.colors) == len(set(dataset.classes)) == classes
    seen: set[int] = set()
    for index in np.linspace(0, count - 1, min(count, 12)).astype(int).tolist():
        sample = dataset[index]
        assert sample.image.shape == (*sample.labels.shape, 3)
        assert sample.image.dtype == sample.labels.dtype == np.uint8
        assert sample.image_path.is_file()
        assert sample.label_path is not None
        assert sample.name == dataset.names[index]
        seen |= set(np.unique(sample.labels).tolist())
    assert len(seen - {255}) >= 2
    assert seen <= {*range(classes), 255}
    assert pickle.loads(pickle.dumps(dataset)).names == dataset.names


def names_in(dataset: SegmentationDataset, index: int) -> set[str]:
    return {dataset.classes[label] for label in np.unique(dataset.labels(index)) if label != dataset.ignore_index}


def test_known_content(shared_data: Path) -> None:
    """What can be seen in the pictures."""
    context = open_dataset(f"pascal_context:{shared_data}/samples/pascal_context?split=all&images=.&masks=.")
    assert names_in(context, context.names.index("2008_008376")) == {"bird", "grass", "ground", "water", "wood"}
    bare = open_dataset(f"pascal_context:{shared_data}/samples/pascal_context?split=all&images=.&masks=.&classes=59")
    assert names_in(bare, bare.names.index("2009_000637")) == {"motorbike", "person", "grass", "ground", "sky"}
    street = open_dataset(f"cityscapes:{shared_data}/cityscapes?split=val")
    assert {"road", "car", "rider", "bicycle", "sky"} <= names_in(street, 0)
    scene = open_dataset(f"ade20k:{shared_data}/samples/ade20k?split=val")
    assert names_in(scene, 0) == {"wall", "building", "sky", "tree", "road", "grass", "plant"}
    room = open_dataset(f"coco_stuff:{shared_data}/samples/coco_stuff?images=.&masks=.")
    assert {"person", "chair", "tv", "refrigerator", "window-other"} <= names_in(room, 0)
    same = open_dataset(f"coco_stuff:{shared_data}/samples/coco_stuff?images=.&masks=.&classes=182")
    assert names_in(same, 0) == names_in(room, 0)


def test_run_lengths_are_the_panoptic_segments(shared_data: Path) -> None:
    """The two JSON files say the same of 50 regions, one in packed run lengths, one in a PNG."""
    root = shared_data / "samples/coco_panoptic"
    objects = json.loads((root / "panoptic_coco_detection_format.json").read_text())["annotations"]
    for image in json.loads((root / "panoptic_examples.json").read_text())["annotations"]:
        stored = read_raw_mask(root / "panoptic_examples" / image["file_name"])
        ids = pack_rgb(np.ascontiguousarray(stored[..., ::-1]))
        segments = {(ids == part["id"]).tobytes() for part in image["segments_info"]}
        found = [each for each in objects if each["image_id"] == image["image_id"]]
        assert len(found) == len(segments)
        for each in found:
            region = coco.Region(1, runs=coco.decode_runs(each["segmentation"]["counts"]))
            mask = coco.draw_region(region, ids.shape)
            assert mask.sum() == each["area"]
            assert np.ascontiguousarray(mask).tobytes() in segments


@pytest.mark.parametrize("module", [ade20k, camvid, cityscapes, pascal_context, person_part, voc])
def test_tables(module) -> None:
    assert len(module.CLASSES) == len(module.COLORS) == len(set(module.CLASSES))
    assert all(0 <= channel <= 255 for color in module.COLORS for channel in color)
    assert all(name == name.strip() for name in module.CLASSES)


def test_ade20k_is_its_own_table(shared_data: Path) -> None:
    lines = (shared_data / "samples/ade20k/objectInfo150.csv").read_text().splitlines()[1:]
    for name, line in zip(ade20k.CLASSES, lines, strict=True):
        assert line.split(",", 5)[5].startswith(name.split()[0])


def test_panoptic_names_are_those_of_stuff(shared_data: Path) -> None:
    content = json.loads((shared_data / "samples/coco_panoptic/panoptic_examples.json").read_text())
    for category in content["categories"]:
        if category["id"] <= 182:
            assert coco.STUFF_CLASSES[category["id"] - 1] == category["name"]
    assert len(coco.STUFF_CLASSES) == 182


class TestSpec:
    def test_parts(self) -> None:
        spec = DatasetSpec.parse("voc2012:/a b/c?split=val&masks=x/y")
        assert (spec.name, spec.target, spec.options) == ("voc2012", "/a b/c", {"split": "val", "masks": "x/y"})
        assert DatasetSpec.parse("data/own") == DatasetSpec("folder", "data/own")
        assert DatasetSpec.parse(r"C:\data?split=val") == DatasetSpec("folder", r"C:\data", {"split": "val"})
        assert DatasetSpec.parse("pkg.mod:make") == DatasetSpec("pkg.mod", "make")
        assert str(spec) == "voc2012:/a b/c?split=val&masks=x/y"

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("voc2021:/x", "no data set 'voc2021'. Did you mean 'voc2012'"),
            ("voc2012:", "names no folder"),
            ("voc2012:/x?split", "split=val&key=value, not 'split'"),
            ("camvid:{}?splt=val", "takes no argument 'splt'. Did you mean 'split'"),
            ("camvid:{}?split=vla", "no split 'vla'. Did you mean 'val'"),
            ("camvid:{}", "expected trainannot or CamVid/trainannot in it, but it holds nothing"),
            ("camvid:{}/nowhere", "there is no such folder"),
            ("pascal_context:{}?classes=many", "classes=many: a int is expected"),
            ("no.such.module:make", "no module 'no.such.module'"),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path: Path, spec: str, message: str) -> None:
        with pytest.raises(AtrousError) as caught:
            open_dataset(spec.format(tmp_path))
        assert message in str(caught.value)

    def test_a_function_of_ones_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: Path) -> None:
        (tmp_path / "my_streets.py").write_text(
            "from atrous.data import open_dataset\n"
            "def make(path: str, count: int = 1):\n"
            "    return open_dataset(path).select(range(count))\n"
            "def wrong():\n    return 7\n"
        )
        monkeypatch.chdir(tmp_path)
        assert len(open_dataset(f"my_streets:make?path={own}&count=2")) == 2
        with pytest.raises(AtrousError, match="returned int, not"):
            open_dataset("my_streets:wrong")
        with pytest.raises(AtrousError, match=r"no function 'mak'\. Did you mean 'make'"):
            open_dataset("my_streets:mak")

    def test_all_are_listed(self) -> None:
        assert list_datasets("coco") == ["coco_panoptic", "coco_stuff", "coco_voc"]
        assert len(list_datasets()) == 11


class TestDataset:
    def test_a_map_style_data_set(self, own: Path) -> None:
        dataset = open_dataset(own)
        assert (dataset.split, dataset.splits, len(dataset)) == ("train", ("train", "val"), 4)
        assert [sample.name for sample in dataset] == list(dataset.names)
        assert dataset[-1].name == "3"
        assert dataset.select([1, 1, 0]).names == ("1", "1", "0")

    def test_sizes_must_agree(self, tmp_path: Path, write: Write) -> None:
        image = write(tmp_path / "a.jpg", photograph(0))
        mask = write(tmp_path / "a.png", np.zeros((32, 24), np.uint8))
        dataset = _of(Item("a", image, mask))
        with pytest.raises(AtrousError, match=r"a\.jpg is 32 x 24, its mask .*a\.png is 24 x 32.*EXIF"):
            dataset[0]

    def test_images_without_labels(self, tmp_path: Path, write: Write) -> None:
        dataset = _of(Item("a", write(tmp_path / "a.jpg", photograph(0)), None))
        assert (dataset[0].labels == 255).all()
        assert dataset[0].label_path is None
        with pytest.raises(AtrousError, match="has no labels"):
            dataset.labels(0)

    def test_an_ignore_index_that_is_a_class(self) -> None:
        with pytest.raises(AtrousError, match="the ignore index 1 is that of 'b'"):
            SegmentationDataset("x", "train", (), ("a", "b"), voc_color_map(2), MaskReader(("a", "b")), ignore_index=1)

    @pytest.mark.parametrize("content", [b"", b"hello, a text", bomb(50_000, 50_000), b"\xff\xd8\xff\xe0"])
    def test_hostile_images_are_named(self, tmp_path: Path, write: Write, content: bytes) -> None:
        mask = write(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
        with pytest.raises(AtrousError, match=r"image\.jpg"):
            _of(Item("a", write(tmp_path / "image.jpg", content), mask))[0]
        with pytest.raises(AtrousError, match=r"absent\.jpg: there is no such file"):
            _of(Item("a", tmp_path / "absent.jpg", mask))[0]

    def test_images_of_every_kind_become_rgb(self, tmp_path: Path, write: Write) -> None:
        pixels = photograph(0)
        exif = Image.Exif()
        exif[0x0112] = 6
        kinds = {
            "gray.png": Image.fromarray(pixels[..., 0]),
            "alpha.png": Image.fromarray(np.dstack([pixels, np.full((24, 32, 1), 128, np.uint8)])),
            "cmyk.jpg": Image.fromarray(pixels).convert("CMYK"),
            "deep.png": Image.fromarray(pixels[..., 0].astype(np.uint16) * 257),
            "turned.jpg": Image.fromarray(np.rot90(pixels).copy()),
        }
        mask = write(tmp_path / "mask.png", np.zeros((24, 32), np.uint8))
        for name, image in kinds.items():
            image.save(tmp_path / name, **({"exif": exif} if name == "turned.jpg" else {}))
            sample = _of(Item(name, tmp_path / name, mask))[0]
            assert sample.image.shape == (24, 32, 3), name


def _of(item: Item) -> SegmentationDataset:
    classes = ("background", "road")
    return SegmentationDataset("small", "train", (item,), classes, voc_color_map(2), MaskReader(classes))


class TestOfficialLayouts:
    """Those whose real files are not at hand."""

    def test_voc_test_and_the_folder_of_the_archive(self, tmp_path: Path, write: Write) -> None:
        root = tmp_path / "VOCdevkit/VOC2012"
        write(root / "ImageSets/Segmentation/test.txt", "2008_000006\n")
        write(root / "JPEGImages/2008_000006.jpg", photograph(0))
        dataset = open_dataset(f"voc2012:{tmp_path}?split=test")
        assert dataset[0].label_path is None
        with pytest.raises(AtrousError, match=r"val\.txt: there is no such list.*There are the lists test"):
            open_dataset(f"voc2012:{tmp_path}?split=val")

    def test_cityscapes_ids(self, tmp_path: Path, write: Write) -> None:
        stem = "bonn_000000_000019"
        write(tmp_path / f"leftImg8bit/test/bonn/{stem}_leftImg8bit.png", photograph(0, (2, 17)))
        write(tmp_path / f"leftImg8bit/train/bonn/{stem}_leftImg8bit.png", photograph(0, (2, 17)))
        ids = np.arange(34, dtype=np.uint8).reshape(2, 17)
        write(tmp_path / f"gtFine/train/bonn/{stem}_gtFine_labelIds.png", ids)
        labels = open_dataset(f"cityscapes:{tmp_path}")[0].labels.reshape(-1)
        assert [int(np.flatnonzero(labels == label)[0]) for label in range(19)] == list(cityscapes.LABEL_IDS)
        assert (labels == 255).sum() == 15
        test = open_dataset(f"cityscapes:{tmp_path}?split=test")
        assert test.names == (f"bonn/{stem}",)
        assert test[0].label_path is None

    def test_context_by_list_and_from_459_classes(self, tmp_path: Path, write: Write) -> None:
        scipy_io = pytest.importorskip("scipy.io")
        root = tmp_path / "VOC2010"
        write(root / "JPEGImages/2008_000002.jpg", photograph(0, (2, 3)))
        write(root / "ImageSets/Main/train.txt", "2008_000002\n2008_000003\n")
        (root / "trainval").mkdir()
        labeled = np.array([[1, 2, 3], [4, 0, 3]], np.uint16)
        scipy_io.savemat(root / "trainval/2008_000002.mat", {"LabelMap": labeled})
        write(root / "labels.txt", "1: accordion\n2: aeroplane\n3: potted plant\n4: wood\n")
        dataset = open_dataset(f"pascal_context:{tmp_path}")
        assert len(dataset) == 1  # VOC lists images that Context left out
        assert dataset[0].labels.tolist() == [[0, 1, 16], [59, 0, 16]]
        reduced = open_dataset(f"pascal_context:{tmp_path}?classes=59")
        assert reduced[0].labels.tolist() == [[255, 0, 15], [58, 255, 15]]

    def test_person_part_lists(self, tmp_path: Path, write: Write) -> None:
        write(tmp_path / "JPEGImages/a.jpg", photograph(0))
        write(tmp_path / "pascal_person_part_gt/a.png", np.full((24, 32), 6, np.uint8))
        write(tmp_path / "pascal_person_part_trainval_list/train.txt", "a\n")
        assert open_dataset(f"person_part:{tmp_path}")[0].labels.max() == 6

    def test_ade20k(self, tmp_path: Path, write: Write) -> None:
        root = tmp_path / "ADEChallengeData2016"
        for place, prefix in (("training", "train"), ("validation", "val")):
            write(root / f"images/{place}/ADE_{prefix}_00000001.jpg", photograph(0, (1, 151)))
            write(root / f"annotations/{place}/ADE_{prefix}_00000001.png", np.arange(151, dtype=np.uint8)[None])
        dataset = open_dataset(f"ade20k:{tmp_path}")
        assert dataset[0].labels.tolist() == [[255, *range(150)]]
        assert dataset.splits == ("train", "val")

    def test_camvid_lists_of_the_tutorial(self, tmp_path: Path, write: Write) -> None:
        write(tmp_path / "test/0001.png", photograph(0, (1, 12)))
        write(tmp_path / "testannot/0001.png", np.arange(12, dtype=np.uint8)[None])
        write(tmp_path / "test.txt", "/SegNet/CamVid/test/0001.png /SegNet/CamVid/testannot/0001.png\n")
        assert open_dataset(f"camvid:{tmp_path}?split=test")[0].labels.tolist() == [[*range(11), 255]]


class TestCocoThings:
    @pytest.fixture
    def root(self, tmp_path: Path, write: Write) -> Path:
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

    def test_subsets_of_the_papers(self, root: Path) -> None:
        counts = {
            subset: len(open_dataset(f"coco_voc:{root}", subset=subset)) for subset in ("", "v3", "crf_rnn", "all")
        }
        assert counts == {"": 1, "v3": 1, "crf_rnn": 2, "all": 3}

    def test_regions(self, root: Path) -> None:
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
            ("[]", "'images' is not in it"),
            ('{"images": [], "annotations": [{"category_id": 1}]}', "KeyError 'image_id'"),
            ('{"images": [{}], "annotations": []}', "not as COCO's annotations are"),
        ],
    )
    def test_damaged_annotations(self, root: Path, write: Write, content: str, message: str) -> None:
        path = write(root / "annotations/instances_train2017.json", content)
        with pytest.raises(AtrousError, match=message) as caught:
            open_dataset(f"coco_voc:{root}")
        assert str(path) in str(caught.value)

    def test_run_lengths_of_another_size(self, root: Path) -> None:
        path = root / "annotations/instances_train2017.json"
        path.write_text(path.read_text().replace("5940, 60", "5940, 61"))
        with pytest.raises(AtrousError, match="annotation 5 has run lengths of 6001 pixels for an image of 100 x 60"):
            open_dataset(f"coco_voc:{root}")


def test_panoptic_segments_not_in_the_file(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "val2017/1.jpg", photograph(0, (2, 2)))
    write(tmp_path / "annotations/panoptic_val2017/1.png", np.array([[[1, 2, 0], [0, 0, 0]]] * 2, np.uint8))
    content = {
        "categories": [{"id": 7, "name": "train", "color": [1, 2, 3]}, {"id": 9, "name": "boat", "color": [3, 2, 1]}],
        "annotations": [{"file_name": "1.png", "segments_info": [{"id": 513, "category_id": 9}]}],
    }
    path = write(tmp_path / "annotations/panoptic_val2017.json", json.dumps(content))
    dataset = open_dataset(f"coco_panoptic:{tmp_path}?split=val2017")
    assert dataset[0].labels.tolist() == [[1, 255], [1, 255]]
    path.write_text(json.dumps(content).replace("513", "514"))
    with pytest.raises(AtrousError, match=r"1\.png: segment 513 \(2 px in such\)"):
        open_dataset(f"coco_panoptic:{tmp_path}?split=val2017")[0]


def test_saved_labels_show_what_is_ignored(tmp_path: Path) -> None:
    save_labels(np.array([[0, 255]], np.uint8), voc.COLORS, tmp_path / "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).tolist() == [[[0, 0, 0], [224, 224, 192]]]
    assert count_labels(read_raw_mask(tmp_path / "a.png"))[255] == 1
