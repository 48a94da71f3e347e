from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from atrous import AtrousError
from atrous.card import Preprocessing
from atrous.inference.engines.convert import describe_network, to_onnx
from atrous.inference.engines.openvino import OpenVinoEngine, import_openvino
from tests.inference.engines.examples import SIZES, eager_scores, images, relative_difference, small_network

pytest.importorskip("onnx")
openvino = import_openvino() if __import__("importlib.util").util.find_spec("openvino") else None
pytestmark = pytest.mark.skipif(openvino is None, reason="needs OpenVINO")


@pytest.fixture(scope="module")
def converted() -> bytes:
    model = small_network()
    return to_onnx(model, describe_network(model, model.card))


def test_float32_agrees_at_any_size(converted: bytes) -> None:
    model = small_network()
    engine = OpenVinoEngine(converted)
    assert engine.precision == "float32"
    for size in SIZES:
        assert relative_difference(engine(images(*size)), eager_scores(model, images(*size))) < 1e-3


def test_a_card_that_gives_all_images_one_size() -> None:
    model = small_network()
    assert model.card is not None
    preprocessing = Preprocessing(resize="pad", size=(65, 97))
    model.card = model.card.model_copy(update={"preprocessing": preprocessing})
    engine = OpenVinoEngine(to_onnx(model, describe_network(model, model.card)))
    for size in ((1, 65, 97), (2, 65, 97), (1, 70, 61)):
        assert relative_difference(engine(images(*size)), eager_scores(model, images(*size))) < 1e-3


def test_an_own_file_of_openvino(converted: bytes, tmp_path: Path) -> None:
    engine = OpenVinoEngine(converted)
    model = openvino.Core().read_model(converted)
    model.set_rt_info(engine.metadata.model_dump_json(), "atrous")
    openvino.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)
    saved = OpenVinoEngine(tmp_path / "model.xml")
    assert saved.metadata == engine.metadata
    assert relative_difference(saved(images(1, 65, 65)), engine(images(1, 65, 65))) < 1e-6


def test_bfloat16_is_used_on_request_alone(converted: bytes) -> None:
    def hint(engine: OpenVinoEngine) -> str:
        return engine._compiled[False].get_property("INFERENCE_PRECISION_HINT").get_type_name()

    assert hint(OpenVinoEngine(converted)) == "f32"
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        engine = OpenVinoEngine(converted, precision="bfloat16")
        assert hint(engine) == "bf16"
        assert engine.precision == "bfloat16"
    else:
        with pytest.raises(AtrousError, match="This CPU does not compute in bfloat16"):
            OpenVinoEngine(converted, precision="bfloat16")


def test_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a network")
    with pytest.raises(AtrousError, match=r"model\.onnx: OpenVINO cannot load this file \(.*Export the weights again"):
        OpenVinoEngine(tmp_path / "model.onnx")


def test_a_file_that_is_read_and_does_not_compile(converted: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.xml"
    openvino.save_model(openvino.Core().read_model(converted), file, compress_to_fp16=False)
    file.write_bytes(file.read_bytes().replace(b' element_type="f32"', b"", 1))
    with pytest.raises(AtrousError, match=r"model\.xml: OpenVINO cannot load this file \(.*Export the weights again"):
        OpenVinoEngine(file)


def test_without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(AtrousError, match=r"openvino is not installed: pip install 'atrous\[openvino\]'"):
        import_openvino()


@pytest.mark.skipif(sys.platform == "win32", reason="there, a process cannot send itself Ctrl-C")
@pytest.mark.parametrize("free", ["free()", "run_in_thread(free)"])
def test_ctrl_c_works_after_engines_are_freed(converted: bytes, tmp_path: Path, free: str) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(converted)
    program = f"""
import os, signal, sys, threading
from pathlib import Path
from atrous.inference.engines.openvino import OpenVinoEngine

engines = [OpenVinoEngine(Path(sys.argv[1])) for _ in range(2)]

def free():
    while engines:
        del engines[0]

def run_in_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()

{free}
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""
    result = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "interrupted\n"), result.stderr
