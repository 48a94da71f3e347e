"""Downloads, from a real server on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

import atrous
from atrous import AtrousError
from atrous.weights import find
from atrous.weights.catalog import Release
from atrous.weights.download import download
from tests.command_line import Run
from tests.weights.importers.tensorflow_writer import deeplab_variables, write_checkpoint
from tests.weights.importers.test_tensorflow import OPTIONS, SMALL, randomized, write_archive

CONTENTS = bytes(range(256)) * 20000
SHA256 = hashlib.sha256(CONTENTS).hexdigest()


@dataclass
class Server:
    url: str = ""
    contents: bytes = CONTENTS
    break_after: int | None = None
    ranges: bool = True
    length: bool = True
    status: int = 200
    version: dict[str, str] = field(default_factory=dict)
    """The headers that tell versions of the file apart."""
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            if state.status != 200:
                self.send_error(state.status)
                return
            ranges = state.ranges and self.headers.get("If-Range") in (None, *state.version.values())
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and ranges else 0
            if start >= len(state.contents):
                self.send_error(416)
                return
            body = state.contents[start:]
            self.send_response(206 if start else 200)
            for header in state.version.items():
                self.send_header(*header)
            if state.length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.break_after])
            if state.break_after is not None:
                self.connection.close()

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{httpd.server_port}/file.bin"
    yield state
    httpd.shutdown()
    httpd.server_close()


def test_fetches_reports_and_leaves_no_part(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = download(server.url, tmp_path / "new" / "file.bin", SHA256, lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENTS
    assert seen[-1] == (len(CONTENTS), len(CONTENTS))
    assert not list(path.parent.glob("*.part"))


def test_the_beginning_of_a_checksum_will_do(server: Server, tmp_path: Path) -> None:
    download(server.url, tmp_path / "file.bin", SHA256[:8])


@pytest.mark.parametrize("ranges", [True, False])
def test_goes_on_where_it_broke_off(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.break_after, server.ranges = 3_000_000, ranges
    with pytest.raises(AtrousError, match="was interrupted"):
        download(server.url, tmp_path / "file.bin", SHA256)
    part = tmp_path / "file.bin.part"
    kept = part.stat().st_size
    assert kept > 0
    assert not (tmp_path / "file.bin").exists()
    server.break_after = None
    assert download(server.url, tmp_path / "file.bin", SHA256).read_bytes() == CONTENTS
    assert server.asked == [None, f"bytes={kept}-"]


VERSIONS = [
    {"ETag": '"1"'},
    {"Last-Modified": "Sun, 01 Nov 2026 00:00:00 GMT"},
    {"ETag": 'W/"1"', "Last-Modified": "Sun, 01 Nov 2026 00:00:00 GMT"},
]
OTHER_VERSION = {"ETag": '"2"', "Last-Modified": "Mon, 02 Nov 2026 00:00:00 GMT"}


def interrupt(server: Server, path: Path) -> int:
    """Interrupt a download, and return the size of its part."""
    server.break_after = 3_000_000
    with pytest.raises(AtrousError, match="was interrupted"):
        download(server.url, path, "")
    server.break_after = None
    return path.with_name(f"{path.name}.part").stat().st_size


@pytest.mark.parametrize("version", VERSIONS)
def test_a_file_without_a_checksum_is_continued_if_it_is_the_same(
    server: Server, tmp_path: Path, version: dict[str, str]
) -> None:
    server.version = version
    kept = interrupt(server, tmp_path / "file.bin")
    assert download(server.url, tmp_path / "file.bin", "").read_bytes() == CONTENTS
    assert server.asked == [None, f"bytes={kept}-"]
    assert {path.name for path in tmp_path.iterdir()} <= {"file.bin", "file.bin.sha256", "file.bin.lock"}


@pytest.mark.parametrize("version", [*VERSIONS, {"ETag": 'W/"1"'}, {}])
def test_two_versions_of_a_file_are_never_mixed(server: Server, tmp_path: Path, version: dict[str, str]) -> None:
    server.version = version
    interrupt(server, tmp_path / "file.bin")
    server.version = {name: OTHER_VERSION[name] for name in version}
    server.contents = CONTENTS[::-1]
    assert download(server.url, tmp_path / "file.bin", "").read_bytes() == server.contents


def test_a_part_of_unknown_version_is_not_continued_without_a_checksum(server: Server, tmp_path: Path) -> None:
    for server.version in ({"ETag": '"1"'}, {}):
        interrupt(server, tmp_path / "file.bin")  # the second time from the start, since the server has another file
        server.contents = bytes(len(CONTENTS))
    server.contents = CONTENTS
    assert download(server.url, tmp_path / "file.bin", "").read_bytes() == CONTENTS


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b'"1"\r\nX: y'])
def test_a_damaged_version_of_a_part_is_ignored(server: Server, tmp_path: Path, content: bytes) -> None:
    server.version = VERSIONS[0]
    interrupt(server, tmp_path / "file.bin")
    (tmp_path / "file.bin.part.version").write_bytes(content)
    assert download(server.url, tmp_path / "file.bin", "").read_bytes() == CONTENTS
    assert server.asked == [None, None]


def test_a_whole_part_is_only_checked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENTS)
    assert download(server.url, tmp_path / "file.bin", SHA256).read_bytes() == CONTENTS


def test_a_wrong_checksum_removes_the_download(server: Server, tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match=r"differs from the released file.*The file was removed"):
        download(server.url, tmp_path / "file.bin", "0" * 64)
    assert not list(tmp_path.glob("*.bin*.part"))
    assert not (tmp_path / "file.bin").exists()


def test_a_refusal_is_told(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(AtrousError, match=r"404 .*ATROUS_WEIGHTS"):
        download(server.url, tmp_path / "file.bin", SHA256)


def test_no_server_is_told(tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match="was interrupted"):
        download("http://127.0.0.1:9/file.bin", tmp_path / "file.bin", SHA256)


def test_an_id_is_downloaded_once(server: Server, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.contents = (shared_data / "weights" / "deeplabv3_257_mv_gpu.tflite").read_bytes()
    name = "deeplab_v3.mobilenet_v2_x0.5.test"
    url = server.url.replace("file.bin", "test.tflite")
    release = Release(name, url, hashlib.sha256(server.contents).hexdigest(), 2.8, "a test")
    monkeypatch.setitem(find.RELEASES, name, release)
    assert atrous.load(name).num_classes == 21
    assert atrous.load(name).num_classes == 21
    assert len(server.asked) == 1
    assert find.describe_weights(name).path == find.cache_folder() / "test.tflite"


@pytest.fixture
def unverified(server: Server, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a release without a checksum."""
    server.contents = (shared_data / "weights" / "deeplabv3_257_mv_gpu.tflite").read_bytes()
    name = "deeplab_v3.mobilenet_v2_x0.5.test"
    release = Release(name, server.url, "", 2.8, "a test", file_name="distinctive.tflite")
    monkeypatch.setitem(find.RELEASES, name, release)
    return name


def test_an_unpublished_checksum_is_remembered_at_the_first_download(server: Server, unverified: str) -> None:
    assert atrous.load(unverified).num_classes == 21
    memory = find.cache_folder() / "distinctive.tflite.sha256"
    assert memory.read_text() == f"{hashlib.sha256(server.contents).hexdigest()}  distinctive.tflite\n"
    assert atrous.load(unverified).num_classes == 21
    assert len(server.asked) == 1


def test_a_file_that_differs_from_its_first_download_is_refused(server: Server, unverified: str) -> None:
    path = find.find_weights(unverified)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(AtrousError, match=r"differs from the released file.*remove .*distinctive\.tflite\.sha256"):
        atrous.load(unverified)


def test_a_later_download_must_have_the_remembered_checksum(server: Server, unverified: str) -> None:
    find.find_weights(unverified).unlink()
    server.contents = b"another file"
    with pytest.raises(AtrousError, match=r"differs from the released file.*removed.*the publisher has replaced"):
        find.find_weights(unverified)
    assert not list(find.cache_folder().glob("*.part"))
    assert not (find.cache_folder() / "distinctive.tflite").exists()


def test_a_damaged_memory_of_a_checksum_is_named(server: Server, unverified: str) -> None:
    path = find.find_weights(unverified)
    path.with_name(path.name + ".sha256").write_text("nothing")
    with pytest.raises(AtrousError, match=r"sha256: expected a SHA-256 checksum"):
        find.find_weights(unverified)


def test_a_download_of_unknown_length_is_not_taken_for_complete(server: Server, tmp_path: Path) -> None:
    server.length = False
    with pytest.raises(AtrousError, match="does not tell the length"):
        download(server.url, tmp_path / "file.bin", "")
    assert not (tmp_path / "file.bin").exists()


def test_nothing_is_downloaded_by_listing_or_describing(server: Server, unverified: str, run: Run) -> None:
    assert unverified in run("weights", "test").out
    shown = run("info", unverified).out
    assert "not on this machine" in shown
    assert "that of the first download is remembered" in " ".join(shown.split())
    assert server.asked == []


def test_the_command_downloads_an_id_once_and_prints_its_file(server: Server, unverified: str, run: Run) -> None:
    for _ in range(2):
        assert Path(run("weights", unverified, "--download").out.strip()).read_bytes() == server.contents
    assert len(server.asked) == 1


def test_an_archive_of_the_model_zoo_by_its_id(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomized(atrous.create_model(SMALL, num_classes=21, **OPTIONS))
    write_checkpoint(tmp_path / "model.ckpt", deeplab_variables(model, "MobilenetV2"))
    members = {f"deeplab/{path.name}": path.read_bytes() for path in tmp_path.iterdir()}
    server.contents = write_archive(tmp_path / "a.tar.gz", members).read_bytes()
    name = "deeplab_v3.mobilenet_v2_x0.5.voc_trainaug"
    release = replace(find.RELEASES[name], url=server.url.replace("file.bin", "zoo.tar.gz"))
    monkeypatch.setitem(find.RELEASES, name, release)
    loaded = atrous.load(name)
    assert torch.equal(loaded.classifier.weight, model.classifier.weight)
    assert loaded.card is not None
    assert [(figure.value, figure.published) for figure in loaded.card.measured] == [(70.19, True)]
    assert loaded.card.license == "Apache-2.0"
    assert (find.cache_folder() / "zoo.tar.gz.sha256").is_file()
    assert atrous.weights.read_card(name) == loaded.card
    assert len(server.asked) == 1
