from __future__ import annotations

import pytest

from tests.cli.conftest import Run
from tests.hub_server import TOKEN, Hub


def test_weights_lists_ids_by_pattern(run: Run) -> None:
    assert "deeplab_v3.mobilenet_v2_x0.5.voc" in run("weights", "voc").out
    assert run("weights", "nothing").code == 2


def test_weights_lists_repositories_of_the_hub(run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = b"---\nlicense: mit\ntags:\n- atrous\n---\n"
    hub.create("me/street", {"README.md": readme})
    hub.create("me/secret", {"README.md": readme}, private=True)
    out = run("weights", "--hub", "me").out
    assert "hf://me/street" in out
    assert "mit" in out
    assert "secret" not in out
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "private" in run("weights", "secret", "--hub", "me").out
    assert "No repositories of you on" in run("weights", "--hub", "you").err
    assert "No repositories of me on" in run("weights", "nothing", "--hub", "me").err
