from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from atrous import AtrousError
from atrous.inference.engines import cache as cache_module
from atrous.inference.engines.cache import LIMIT_VARIABLE, EngineCache, cache_key


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineCache:
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path))
    return EngineCache()


def test_loads_what_was_stored(cache: EngineCache, tmp_path: Path) -> None:
    assert cache.load("a") is None
    cache.store("a", b"network")
    assert cache.load("a") is not None
    assert cache.load("a").startswith(b"network")
    assert [path.name for path in (tmp_path / "engines").iterdir()] == ["a.onnx"]


def test_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ATROUS_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = EngineCache().folder
    assert folder.name == "engines"
    assert tmp_path in folder.parents


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_entry_is_removed(cache: EngineCache, damage: str) -> None:
    cache.store("a", b"network" * 100)
    path = cache.folder / "a.onnx"
    content = bytearray(path.read_bytes())
    if damage == "changed":
        content[50] ^= 1
    path.write_bytes(content[: {"cut": 300, "empty": 0}.get(damage, len(content))])
    assert cache.load("a") is None
    assert not path.exists()


def test_the_least_recently_used_are_removed(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "0.0035")
    cache = EngineCache()
    for age, key in enumerate("abc"):
        cache.store(key, bytes(1000))
        os.utime(cache.folder / f"{key}.onnx", (1000 + age, 1000 + age))
    assert cache.load("a") is not None  # used now
    cache.store("d", bytes(1000))
    assert sorted(path.stem for path in cache.folder.glob("*.onnx")) == ["a", "c", "d"]


def test_a_limit_of_zero_stores_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path))
    monkeypatch.setenv(LIMIT_VARIABLE, "0")
    EngineCache().store("a", b"network")
    assert list(tmp_path.rglob("*.onnx")) == []


def test_a_limit_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "2GB")
    with pytest.raises(AtrousError, match=r"ATROUS_ENGINE_CACHE_MB=2GB: a number of megabytes"):
        EngineCache()


def test_a_folder_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "file"))
    cache = EngineCache()
    with cache.lock():
        assert cache.load("a") is None
        cache.store("a", b"network")
        cache.discard("a")
    assert cache.load("a") is None


def test_a_full_disk(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(content: bytes) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module, "_checksum", fail)
    cache.store("a", b"network")
    monkeypatch.undo()
    assert cache.load("a") is None
    assert list(cache.folder.iterdir()) == []


def _count_alone(folder: str) -> None:
    """Enter the lock, and fail if another process is inside."""
    os.environ["ATROUS_CACHE"] = folder
    with EngineCache().lock():
        inside = Path(folder) / "inside"
        inside.touch(exist_ok=False)
        time.sleep(0.05)
        inside.unlink()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count_alone, args=(str(tmp_path),)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


def test_keys_differ_in_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    first = cache_key(digest="a", output_stride=None)
    others = [cache_key(digest="b", output_stride=None), cache_key(digest="a", output_stride=8)]
    monkeypatch.setattr(cache_module, "describe_cpu", lambda: "another")
    others.append(cache_key(digest="a", output_stride=None))
    monkeypatch.undo()
    monkeypatch.setattr("atrous.__version__", "another")
    others.append(cache_key(digest="a", output_stride=None))
    monkeypatch.undo()
    assert len({first, *others}) == 5
    assert cache_key(output_stride=None, digest="a") == first
