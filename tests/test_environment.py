"""The description of versions, devices, command and git state."""

from __future__ import annotations

import json

import torch

from atrous.environment import describe_environment


def test_the_description_is_plain_data() -> None:
    description = json.loads(json.dumps(describe_environment()))
    assert description["torch"] == torch.__version__
    assert {"python", "lightning_fabric", "numpy", "platform", "cores", "devices", "processes", "command", "git"} <= (
        description.keys()
    )
