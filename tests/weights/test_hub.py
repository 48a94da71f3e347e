"""Weights of the hub: ids, what is downloaded and what is not, errors, tokens."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import atrous
from atrous import AtrousError
from atrous.weights import find_weights
from atrous.weights.find import DownloadNeededError, cache_folder, downloads_disabled, hub_folder
from atrous.weights.hub import HubId, list_hub_weights
from tests.hub_server import TOKEN, Hub


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://user/name", HubId("user/name")),
        ("hf://user/name@v1.0", HubId("user/name", "v1.0")),
        ("hf://user/name@feature%2Fx/a/b.safetensors", HubId("user/name", "feature/x", "a/b.safetensors")),
        ("hf://user/name@refs/pr/3", HubId("user/name", "refs/pr/3")),
        ("hf://a/n_a-m.e/best.safetensors", HubId("a/n_a-m.e", file="best.safetensors")),
    ],
)
def test_ids(text: str, expected: HubId) -> None:
    assert HubId.parse(text) == expected
    assert HubId.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "hf://name", "hf://user/", "hf://../etc", "hf://user/..", "hf://us er/name", "hf://user/na--me", "hf://-a/b",
        "hf://user/name.git", "hf://user/name@", "hf://user/name@../x", "hf://user/name@a%2F..%2Fb", "hf://user/name@-x",
        "hf://user/name/../x.safetensors", "hf://user/name//x.safetensors", "hf://user/name/.x.safetensors",
        "hf://user/name/pytorch_model.bin", "hf://user/name/model.pth", "hf://user/name?x=1", "hf://user/name#x",
        "hf://user/name@a b", "hf://https://x/y", "hf://user/na\nme",
    ],
)  # fmt: skip
def test_invalid_ids_are_refused_without_a_request(text: str, hub: Hub) -> None:
    with pytest.raises(AtrousError):
        find_weights(text)
    assert not hub.requests


def test_weights_are_downloaded_once_and_load(hub: Hub, weights_file: Path) -> None:
    hub.create("me/street", {"model.safetensors": weights_file.read_bytes(), "README.md": b"hello"})
    image = torch.randn(1, 3, 65, 65)
    expected = atrous.load(weights_file)(image)
    for source in ("hf://me/street", "hf://me/street/model.safetensors", Path("hf://me/street")):
        assert torch.equal(atrous.load(source)(image), expected)
    assert len(hub.downloads) == 1
    assert not hub.asked("GET", "README")
    assert not hub.asked("GET", "harness")


def test_requests_tell_nothing_about_the_machine(hub: Hub, weights_file: Path) -> None:
    hub.create("me/street", {"model.safetensors": weights_file.read_bytes()})
    find_weights("hf://me/street")
    agents = {headers["user-agent"] for _, _, headers in hub.requests}
    assert agents
    for agent in agents:
        assert agent.startswith("atrous/")
        assert "torch" not in agent
        assert "agent" not in agent
    assert not any("authorization" in headers for _, _, headers in hub.requests)


def test_a_revision_is_pinned(hub: Hub, weights_file: Path, tmp_path: Path) -> None:
    repository = hub.create("me/street", {"model.safetensors": weights_file.read_bytes()})
    first = repository.refs["v1"] = repository.refs["main"]
    other = atrous.load(weights_file)
    torch.nn.init.ones_(other.classifier.weight)
    atrous.weights.save(other, tmp_path / "other.safetensors")
    repository.commit({"model.safetensors": (tmp_path / "other.safetensors").read_bytes()})
    new, old = find_weights("hf://me/street"), find_weights(f"hf://me/street@{first}")
    assert new.read_bytes() != old.read_bytes()
    assert find_weights("hf://me/street@v1") == old
    hub.requests.clear()
    assert find_weights(f"hf://me/street@{first}") == old
    assert not hub.requests  # a commit never changes


def test_a_new_readme_downloads_no_weights_again(hub: Hub, weights_file: Path) -> None:
    repository = hub.create("me/street", {"model.safetensors": weights_file.read_bytes()})
    path = find_weights("hf://me/street")
    repository.commit({"README.md": b"more"})
    assert find_weights("hf://me/street") == path
    assert len(hub.downloads) == 1


@pytest.mark.parametrize("variable", ["ATROUS_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_the_cache_is_used(
    variable: str, hub: Hub, weights_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = hub.create("me/street", {"model.safetensors": weights_file.read_bytes()})
    path = find_weights("hf://me/street")
    hub.requests.clear()
    monkeypatch.setenv(variable, "1")
    assert find_weights("hf://me/street") == path
    assert find_weights(f"hf://me/street@{repository.refs['main']}") == path
    with pytest.raises(AtrousError, match=r"hf://me/other is not in the cache.*unset ATROUS_OFFLINE"):
        find_weights("hf://me/other")
    with pytest.raises(AtrousError, match="not listed offline"):
        list_hub_weights("me")
    assert not hub.requests


@pytest.mark.parametrize("status", [None, 429, 503])
def test_without_a_hub_an_earlier_download_is_used(
    status: int | None, hub: Hub, weights_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    repository = hub.create("me/street", {"model.safetensors": weights_file.read_bytes()})
    path = find_weights("hf://me/street")
    hub.failing = status
    if status is None:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert find_weights("hf://me/street") == path
    assert f"an earlier download is used: commit {repository.refs['main']}" in caplog.text
    with pytest.raises(AtrousError, match=r"cannot reach http.*Check the connection"):
        find_weights("hf://me/other")


def test_an_interrupted_download_resumes(hub: Hub, weights_file: Path) -> None:
    content = weights_file.read_bytes()
    hub.create("me/street", {"model.safetensors": content})
    hub.break_after = len(content) // 2
    with pytest.raises(AtrousError, match=r"interrupted.*it resumes"):
        find_weights("hf://me/street")
    (part,) = hub_folder().rglob("*.part")
    kept = part.stat().st_size
    assert kept > 0
    hub.break_after = None
    assert find_weights("hf://me/street").read_bytes() == content
    assert [headers.get("range") for headers in hub.downloads] == [None, f"bytes={kept}-"]


KILLED = """
import os, sys
from atrous.progress import progress_bar
from atrous.weights import find_weights, download

download.CHUNK = 1000
def stop(done, total):
    if done > total // 2:
        os._exit(9)

original = download.download
download.download = lambda url, path, sha256, on_progress, **options: original(url, path, sha256, stop, **options)
find_weights("hf://me/street")
"""


def test_a_killed_download_resumes(hub: Hub, weights_file: Path) -> None:
    hub.create("me/street", {"model.safetensors": weights_file.read_bytes()})
    killed = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert killed.returncode == 9
    assert find_weights("hf://me/street").read_bytes() == weights_file.read_bytes()
    assert hub.downloads[1]["range"].startswith("bytes=")


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_file_in_the_cache_is_downloaded_again(
    damage: str, hub: Hub, weights_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.create("me/street", {"model.safetensors": weights_file.read_bytes()})
    path = find_weights("hf://me/street")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content[:-9] if damage == "truncated" else content)
    assert find_weights("hf://me/street") == path
    assert path.read_bytes() == weights_file.read_bytes()
    assert "is damaged and is downloaded again" in caplog.text


def test_a_wrong_content_from_the_server_is_not_kept(hub: Hub, weights_file: Path) -> None:
    content = weights_file.read_bytes()
    repository = hub.create("me/street", {"model.safetensors": content})
    path = find_weights("hf://me/street")
    path.unlink()
    digest = next(iter(hub.objects))
    hub.objects = type("Lying", (dict,), {"__setitem__": lambda self, key, value: None})({digest: content[:-1] + b"?"})
    with pytest.raises(AtrousError, match="the content differs"):
        find_weights(f"hf://me/street@{repository.refs['main']}")
    assert not path.exists()


def test_a_damaged_answer_in_the_cache_is_asked_for_again(hub: Hub, weights_file: Path) -> None:
    hub.create("me/street", {"model.safetensors": weights_file.read_bytes()})
    path = find_weights("hf://me/street")
    for listing in hub_folder().rglob("revisions/*.json"):
        listing.write_text('{"commit": "../../x", "files": {"../x.safetensors": [1, "0"]}}')
    assert find_weights("hf://me/street") == path


@pytest.mark.parametrize("in_processes", [False, True])
def test_many_load_the_same_weights_at_once(in_processes: bool, hub: Hub, weights_file: Path) -> None:
    hub.create("me/street", {"model.safetensors": weights_file.read_bytes()})
    if in_processes:
        script = "from atrous.weights import find_weights; print(find_weights('hf://me/street'))"
        running = [
            subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(3)
        ]
        paths = {process.communicate()[0].strip() for process in running}
        assert [process.returncode for process in running] == [0, 0, 0]
    else:
        with ThreadPoolExecutor(8) as pool:
            paths = set(map(str, pool.map(find_weights, ["hf://me/street"] * 8)))
    assert paths == {str(find_weights("hf://me/street"))}
    assert len(hub.downloads) == 1


def test_other_files_are_never_read(hub: Hub, weights_file: Path) -> None:
    evil = pickle.dumps({"a": 1})
    hub.create("me/pickles", {"pytorch_model.bin": evil, "model.pth": evil, "config.json": b"{}"})
    with pytest.raises(AtrousError, match=r"no \.safetensors file at main; others are not read"):
        find_weights("hf://me/pickles")
    hub.create("me/disguised", {"model.safetensors": evil})
    with pytest.raises(AtrousError, match="not a safetensors file, whatever its name"):
        atrous.load("hf://me/disguised")
    hub.create("me/outside", {"../../x.safetensors": weights_file.read_bytes()})
    with pytest.raises(AtrousError, match=r"no \.safetensors file"):
        find_weights("hf://me/outside")
    assert not hub.asked("GET", r"bin$|pth$|json$")


def test_one_of_several_files(hub: Hub, weights_file: Path) -> None:
    content = weights_file.read_bytes()
    repository = hub.create("me/several", {"a.safetensors": content, "folder/b.safetensors": content})
    with pytest.raises(AtrousError, match=r"2 \.safetensors files; choose one: hf://me/several/a\.safetensors, hf://"):
        find_weights("hf://me/several")
    assert find_weights("hf://me/several/folder/b.safetensors").name == "b.safetensors"
    with pytest.raises(AtrousError, match=r"no file 'c\.safetensors' at main. Did you mean 'a\.safetensors'"):
        find_weights("hf://me/several/c.safetensors")
    repository.commit({"model.safetensors": content})
    assert find_weights("hf://me/several").name == "model.safetensors"


@pytest.mark.parametrize(
    ("name", "token", "message"),
    [
        ("me/nothing", "", "no such repository on http.*or it is private: set HF_TOKEN"),
        ("me/nothing", TOKEN, "no such repository on http.*or HF_TOKEN gives no access"),
        ("me/private", "", "no such repository on http.*or it is private: set HF_TOKEN"),
        ("me/private", "hf_another_token", r"rejects the token in HF_TOKEN \(401\)"),
        ("me/private@v9", TOKEN, "no such revision; check the branch, tag or commit"),
        ("me/gated", "", "the server answered 403.*accept its terms on http.*set HF_TOKEN"),
    ],
)
def test_errors_say_what_to_do(
    name: str, token: str, message: str, hub: Hub, weights_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.create("me/private", {"model.safetensors": weights_file.read_bytes()}, private=True)
    hub.create("me/gated", {"model.safetensors": weights_file.read_bytes()}, gated=True)
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(AtrousError, match=message) as raised:
        find_weights(f"hf://{name}")
    assert "\n" not in str(raised.value)
    assert not token or token not in str(raised.value)


def test_a_token_goes_to_the_hub_alone_and_is_written_nowhere(
    hub: Hub, weights_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    hub.create("me/private", {"model.safetensors": weights_file.read_bytes()}, private=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    find_weights("hf://me/private")
    assert all(headers["authorization"] == f"Bearer {TOKEN}" for _, _, headers in hub.requests)
    assert hub.downloads
    assert not any("authorization" in headers for headers in hub.downloads)
    assert TOKEN not in caplog.text + "".join(capfd.readouterr())
    for folder in (cache_folder(), tmp_path):
        assert not [path for path in folder.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_a_token_in_a_file_is_not_used(hub: Hub, weights_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token_file = Path(os.environ["HF_HOME"]) / "token"
    token_file.parent.mkdir(parents=True)
    token_file.write_text(TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(token_file))
    hub.create("me/street", {"model.safetensors": weights_file.read_bytes()})
    find_weights("hf://me/street")
    assert not any("authorization" in headers for _, _, headers in hub.requests)


def test_a_plan_asks_and_downloads_nothing(hub: Hub, weights_file: Path) -> None:
    hub.create("me/street", {"model.safetensors": weights_file.read_bytes()})
    with downloads_disabled(), pytest.raises(DownloadNeededError) as raised:
        find_weights("hf://me/street")
    assert raised.value.url == f"{hub.url}/me/street"
    assert not hub.requests
    path = find_weights("hf://me/street")
    with downloads_disabled():
        assert find_weights("hf://me/street") == path


def test_repositories_of_a_user(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = b"---\nlicense: apache-2.0\ntags:\n- atrous\n---\n"
    hub.create("me/street", {"README.md": readme})
    hub.create("me/secret", {"README.md": readme}, private=True)
    hub.create("me/unrelated", {"README.md": b""})
    hub.create("you/street", {"README.md": readme})
    (entry,) = list_hub_weights("me")
    assert (entry.id, entry.license, entry.updated, entry.private) == (
        "hf://me/street", "apache-2.0", "2026-01-02", False,
    )  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert [each.id for each in list_hub_weights("me")] == ["hf://me/street", "hf://me/secret"]
    with pytest.raises(AtrousError, match="the name of a user"):
        list_hub_weights("../me")


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(AtrousError, match=r"huggingface_hub is not installed: pip install 'atrous\[hub\]'"):
        find_weights("hf://me/street")
