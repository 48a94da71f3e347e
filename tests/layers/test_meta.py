from __future__ import annotations

import subprocess
import sys

from atrous import create_model, list_models
from atrous.layers.meta import meta_device


def test_networks_have_the_same_tensors_as_elsewhere() -> None:
    for name in ("deeplab_v1.vgg16", "deeplab_v3.mobilenet_v2", "refinenet.resnet50", "dilation8.vgg16"):
        with meta_device():
            model = create_model(name, width=0.125, num_classes=3)
        assert all(value.is_meta for value in model.state_dict().values())
        expected = create_model(name, width=0.125, num_classes=3).state_dict()
        assert {key: value.shape for key, value in model.state_dict().items()} == {
            key: value.shape for key, value in expected.items()
        }


def test_no_network_imports_the_compiler() -> None:
    script = """
import sys
from atrous import create_model
from atrous.layers.meta import meta_device
with meta_device():
    for name in sys.argv[1:]:
        create_model(name, num_classes=2)
        assert "torch._dynamo" not in sys.modules, name
"""
    names = [f"deeplab_v3.{backbone}" for backbone in ("mobilenet_v2", "resnet50", "xception65", "efficientnet_lite0")]
    names += ["deeplab_v1.vgg16", "fcn_8s.vgg16", "refinenet.resnet50", "unet.valid"]
    names = [name for name in names if name in list_models()]
    assert len(names) >= 6
    done = subprocess.run([sys.executable, "-c", script, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
