"""The files of weights that are sent to the machines of a cluster."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from atrous.errors import AtrousError
from atrous.scale.weights import SharedWeights
from tests.offline import skip_without

skip_without("ray")

FILES = [
    ("w.safetensors",),
    ("encoder_epoch_20.pth", "decoder_epoch_20.pth"),
    ("decoder_epoch_20.pth", "encoder_epoch_20.pth"),
    ("model.ckpt.index", "model.ckpt.data-00000-of-00002", "model.ckpt.data-00001-of-00002"),
    ("model.ckpt.data-00000-of-00001", "model.ckpt.index"),
    ("network.xml", "network.bin"),
    ("network.onnx", "network.onnx.data"),
]


@pytest.fixture
def files(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files of weights, the first of which is given, beside another file."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "weights").mkdir()
    paths = [tmp_path / "weights" / name for name in (*request.param, "other.pth")]
    for path in paths:
        path.write_text(path.name)
    return paths[:-1]


def share(path: Path, monkeypatch: pytest.MonkeyPatch, *, machines: int) -> SharedWeights:
    """Share weights on a cluster whose memory is that of this process."""
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True}] * machines)
    monkeypatch.setattr("ray.put", lambda content: content)
    monkeypatch.setattr("ray.get", lambda content: content)
    return SharedWeights.share(path)


@pytest.mark.parametrize("files", FILES, indirect=True)
@pytest.mark.parametrize("lost", [0, -1])
def test_all_files_are_sent_where_one_is_missing(files: list[Path], lost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = share(files[0], monkeypatch, machines=2)
    assert shared.locate() == files[0]
    files[lost].unlink()
    sent = shared.locate()
    assert sent.name == files[0].name
    assert {path.name: path.read_text() for path in sent.parent.iterdir()} == {path.name: path.name for path in files}


@pytest.mark.parametrize("files", FILES, indirect=True)
def test_a_file_that_changes_during_the_job_is_named(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    shared = share(files[0], monkeypatch, machines=1)
    assert shared.locate() == files[0]
    files[-1].write_text("changed meanwhile")
    with pytest.raises(AtrousError, match=f"{files[-1].name}: no such file on this machine; it was changed"):
        shared.locate()


@pytest.mark.parametrize("files", [FILES[1]], indirect=True)
def test_links_keep_their_names(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in files:
        path.symlink_to(path.rename(tmp_path / f"{path.stem[:3]}.blob"))
    shared = share(files[0], monkeypatch, machines=2)
    assert shared.locate() == files[0]
    files[0].unlink()
    assert shared.locate().name == files[0].name
