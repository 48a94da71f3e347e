from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from atrous import AtrousError
from atrous.marks import Mark
from atrous.scale.done import DoneIndex
from atrous.scale.results import ResultFolder
from atrous.scale.sources import list_images
from atrous.scale.storage import Storage
from tests.offline import skip_without
from tests.scale.s3_server import S3Server

skip_without("ray")

PLACES = ("{folder}", "file://{folder}", "local://{folder}", "memory://{folder}", "s3://bucket/some folder")


@pytest.fixture(params=PLACES)
def storage(request: pytest.FixtureRequest, s3: S3Server, tmp_path: Path) -> Storage:
    return Storage(request.param.format(folder=tmp_path / "place"))


def test_files_are_written_read_and_listed(storage: Storage) -> None:
    assert list(storage.list()) == []
    storage.write("deep/b ü.txt", b"short")
    storage.write("deep/b ü.txt", b"0123456789")
    storage.write("a.txt", b"")
    storage = pickle.loads(pickle.dumps(storage))
    assert [(file.path, file.size) for file in storage.list()] == [("a.txt", 0), ("deep/b ü.txt", 10)]
    assert storage.read("deep/b ü.txt") == b"0123456789"
    assert storage.read_ends("deep/b ü.txt", 3) == b"012789"
    assert storage.read_ends("a.txt", 3) == b""
    assert storage.read_ends("none", 3) is None
    single = Storage(storage.name("deep/b ü.txt"))
    assert [(file.path, file.size) for file in single.list()] == [("", 10)]
    assert single.read("") == b"0123456789"
    with pytest.raises(AtrousError, match="none: cannot be read"):
        storage.read("none")


def test_edited_results_are_not_replaced(storage: Storage, tmp_path: Path) -> None:
    mark, source, output = Mark("predict", {"source": "1f"}), tmp_path / "a.jpg", Path("a.json")
    results = ResultFolder(storage.address)
    storage.write("a.json", mark.seal(f"{mark} as written".encode()))
    assert results.is_finished([output], mark, source, overwrite=False)
    storage.write("a.json", storage.read("a.json").replace(b"as written", b"by hand"))
    with pytest.raises(AtrousError, match=r"a\.json exists and is not a file of `atrous predict`, or was edited"):
        results.is_finished([output], mark, source, overwrite=False)


def test_large_objects_are_uploaded_in_parts(s3: S3Server) -> None:
    content = bytes(range(256)) * 2**16  # 16 MiB
    storage = Storage("s3://bucket/folder")
    storage.write("large", content)
    assert storage.read("large") == content == s3.objects["bucket/folder/large"]


@pytest.mark.parametrize("place", ["{folder}", "local://{folder}"])
def test_a_failed_write_leaves_the_old_file(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(place.format(folder=tmp_path))
    storage.write("a.txt", b"old")
    monkeypatch.setattr("os.replace", _fail)
    monkeypatch.setattr("shutil.move", _fail)
    with pytest.raises(AtrousError, match="disk is gone"):
        storage.write("a.txt", b"new and longer")
    assert storage.read("a.txt") == b"old"


def _fail(*arguments: object, **options: object) -> None:
    raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3x://a/b", "not an address that can be opened"),
        ("sftp://host/b", "pip install paramiko"),
    ],
)
def test_places_that_cannot_be_opened(address: str, message: str) -> None:
    with pytest.raises(AtrousError, match=message):
        Storage(address)


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    address = "s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"
    with pytest.raises(AtrousError, match=r"s3://bucket/x: cannot be listed") as error:
        list(Storage(address).list())
    assert "\n" not in str(error.value)


def test_the_index_is_small_and_ignores_torn_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atrous.scale.done.PART_KEYS", 1000)
    storage = Storage(tmp_path)
    keys = [f"{number:016x}" for number in range(2500)]
    index = DoneIndex(storage)
    for key in keys:
        index.add(key)
    index.flush()
    parts = sorted(file.path for file in storage.list())
    assert [file.size // 100 for file in storage.list()] == [170, 170, 85]  # and a line for the time
    (tmp_path / parts[-1]).write_bytes((tmp_path / parts[-1]).read_bytes()[:-5])
    found = DoneIndex(storage).load(storage.list())
    assert {key for key in found if len(key) == len(keys[0])} == set(keys[:-1])


def test_images_of_addresses(s3: S3Server) -> None:
    for name in ("photos/a.jpg", "photos/deep/b.PNG", "photos/notes.txt", "photos/c.jpg"):
        s3.objects[f"bucket/{name}"] = b"x"
    named = {str(source): str(path) for source, path in list_images(["s3://bucket/photos/"]).items()}
    assert named == {
        "s3://bucket/photos/a.jpg": "a.jpg",
        "s3://bucket/photos/c.jpg": "c.jpg",
        "s3://bucket/photos/deep/b.PNG": "deep/b.PNG",
    }
    assert [str(path) for path in list_images(["s3://bucket/photos/*.jpg"]).values()] == ["a.jpg", "c.jpg"]
    ((image, path),) = list_images(["s3://bucket/photos/deep/b.PNG"]).items()
    assert (str(image), str(path)) == ("s3://bucket/photos/deep/b.PNG", "b.PNG")
    assert image.open().read() == b"x"
    with pytest.raises(AtrousError, match="no images there"):
        list_images(["s3://bucket/other"])


def test_files_of_this_machine_by_their_addresses(tmp_path: Path) -> None:
    for name in ("a b.jpg", "deep/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    images = {tmp_path / "a b.jpg": Path("a b.jpg"), tmp_path / "deep" / "c.png": Path("deep/c.png")}
    assert list_images([tmp_path.as_uri()]) == images
    assert list_images([(tmp_path / "a b.jpg").as_uri()]) == {tmp_path / "a b.jpg": Path("a b.jpg")}


@pytest.mark.parametrize("place", ["{folder}", "file://{folder}", "memory://{folder}", "s3://bucket/some folder"])
def test_results_inside_the_folder_are_no_images(
    place: str, s3: S3Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = place.format(folder=tmp_path / "photos")
    for name in ("a.jpg", "out.jpg", "outer/b.png", "out/a.png", "out/deep/b.png", "out/report.json"):
        Storage(address).write(name, b"x")

    def names(text: str, results: str) -> set[str]:
        return {path.as_posix() for path in list_images([text], results=results).values()}

    images = {"a.jpg", "out.jpg", "outer/b.png"}
    inside = {"out/a.png", "out/deep/b.png"}
    assert names(address, f"{address}/out/") == images
    assert f"2 images in {Storage(address).name('out')}, where the results are" in capsys.readouterr().err
    assert names(f"{address}/", f"{address}/out/deep") == images | {"out/a.png"}
    for elsewhere in (address, f"{address} 2/out", str(tmp_path / "other"), "memory://other/out"):
        capsys.readouterr()
        assert names(address, elsewhere) == images | inside
        assert not capsys.readouterr().err
    assert names(f"{address}/out/*.png", f"{address}/out") == {"a.png"}
