"""Files that are never half-written, and CSV files that grow row by row."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from atrous import AtrousError
from atrous.files import CsvFile, read_csv, temporary_folder, write_json, writing


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.json"
    write_json(path, {"a": 1})

    def fail() -> None:
        with writing(path) as temporary:
            temporary.write_text("half")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"Cannot write .*a\.json: No space left on device\. Free disk space"),
        (
            errno.EACCES,
            r"Cannot write .*a\.json: Permission denied\. Choose another folder, or check its permissions\.",
        ),
    ],
)
def test_the_reason_of_a_failed_write_decides_the_advice(tmp_path: Path, number: int, message: str) -> None:
    with pytest.raises(AtrousError, match=message), writing(tmp_path / "a.json"):
        raise OSError(number, os.strerror(number))


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_many_threads_write_files_with_the_permissions_of_new_files(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        with ThreadPoolExecutor(8) as executor:
            list(executor.map(lambda n: write_json(tmp_path / str(n % 5) / f"{n}.json", n), range(200)))
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.json")} == {0o640}
    assert len(list(tmp_path.rglob("*.json"))) == 200


def test_a_synced_file_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    with writing(tmp_path / "a.bin", sync=True) as temporary:
        temporary.write_bytes(b"content")
    assert calls == ["fsync", "replace"]
    assert (tmp_path / "a.bin").read_bytes() == b"content"


@pytest.mark.skipif(os.name == "nt", reason="locks of POSIX")
def test_temporary_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    """Those that are being written by this process, another thread or another process stay."""
    script = f"""
import os, signal, sys
from pathlib import Path
from atrous.files import temporary_folder, writing
with writing(Path({str(tmp_path)!r}, sys.argv[1])) as temporary, temporary_folder() as folder:
    temporary.with_suffix(".bin").write_text("beside")
    print(temporary, folder, flush=True)
    sys.stdin.read(1)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for name in ("a.xml", "b.xml")
    ]
    written = []
    for process in processes:
        assert process.stdout is not None
        written.append([Path(text) for text in process.stdout.readline().split()])
    processes[0].communicate("x")
    assert all(path.exists() for paths in written for path in paths)
    own = tmp_path / ".mine.png"
    own.write_text("a hidden file of somebody else")
    last = subprocess.run(
        [sys.executable, "-c", script, "c.xml"], input="x", capture_output=True, env=environment, text=True, check=False
    )
    assert last.returncode == -signal.SIGKILL
    assert not any(path.exists() for path in written[0])
    assert not written[0][0].with_suffix(".bin").exists()
    assert all(path.exists() for path in written[1])
    assert written[1][0].with_suffix(".bin").exists()
    assert own.exists()
    processes[1].communicate("x")


def test_temporary_folders_are_removed(tmp_path: Path) -> None:
    with temporary_folder() as folder:
        (folder / "a.txt").write_text("content")
    assert not folder.exists()


def test_a_name_may_be_as_long_as_the_file_system_permits(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 120 + ".json")
    write_json(path, {})
    assert list(tmp_path.iterdir()) == [path]


def test_a_csv_file_continues_with_the_rows_that_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log = CsvFile(path, ("step", "loss"), keep=lambda row: True)
    for step in range(4):
        log.add({"step": step, "loss": step / 2})
    with path.open("a") as file:
        file.write("4")  # a row that a crash cut short
    assert [row["step"] for row in read_csv(path)] == ["0", "1", "2", "3"]
    CsvFile(path, ("step", "loss", "lr"), keep=lambda row: int(row["step"]) <= 1).add({"step": 2, "loss": 1, "lr": 3})
    rows = read_csv(path)
    assert [row["step"] for row in rows] == ["0", "1", "2"]
    assert [row["lr"] for row in rows] == ["", "", "3"]


def test_a_csv_file_that_cannot_be_written(tmp_path: Path) -> None:
    log = CsvFile(tmp_path / "folder" / "log.csv", ("step",), keep=lambda row: True)
    (tmp_path / "folder" / "log.csv").unlink()
    (tmp_path / "folder").rmdir()
    with pytest.raises(AtrousError, match="Cannot write"):
        log.add({"step": 1})


def test_no_file_has_no_rows(tmp_path: Path) -> None:
    assert read_csv(tmp_path / "nothing.csv") == []
