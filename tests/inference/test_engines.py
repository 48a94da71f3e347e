"""Everything that a segmenter does works with every engine, and gives what eager torch gives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.card import Preprocessing
from atrous.data.dataset import Sample
from atrous.evaluation import evaluate
from atrous.inference import Segmenter
from atrous.inference.engines.create import is_installed
from atrous.inference.refine import segment
from atrous.inference.tta import TTAConfig
from atrous.inference.video import TemporalSmoother
from atrous.weights import save
from tests.inference.engines.examples import small_network
from tests.inference.networks import waves

pytest.importorskip("onnx")
needs_openvino = pytest.mark.skipif(not is_installed("openvino"), reason="needs OpenVINO")
ENGINES = [
    "torch",
    "onnxruntime",
    pytest.param("openvino", marks=needs_openvino),
    pytest.param("compile", marks=pytest.mark.slow),
]
each_engine = pytest.mark.parametrize("engine", ENGINES)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(small_network(), tmp_path_factory.mktemp("weights") / "small.safetensors")


def pair(weights: Path, engine: str, **options: object) -> tuple[Segmenter, Segmenter]:
    """A segmenter by an engine, and one that runs the same network eagerly."""
    loaded = Segmenter.load(weights, engine=engine, device="cpu", **options)
    assert loaded.engine.name == engine
    return loaded, Segmenter(small_network(), device="cpu", **options)


def assert_same(first: Segmenter, second: Segmenter, pixels: np.ndarray) -> None:
    result, expected = first(pixels, probabilities=True), second(pixels, probabilities=True)
    np.testing.assert_allclose(result.probabilities, expected.probabilities, atol=1e-3)
    assert (result.labels == expected.labels).mean() > 0.999
    assert (first(pixels).labels == result.labels).mean() > 0.999  # without probabilities, by the fused arg-max


@each_engine
def test_an_image(engine: str, weights: Path) -> None:
    loaded, eager = pair(weights, engine)
    assert_same(loaded, eager, waves(61, 97))
    assert loaded.network_seconds > 0
    assert loaded.card == eager.card


@each_engine
@pytest.mark.parametrize(
    "tta", ["flip", "v2", TTAConfig((0.75, 1.25), flip=True, merge="mean_logits"), TTAConfig(crop=65, long_side=97)]
)
def test_test_time_augmentation(engine: str, weights: Path, tta: str | TTAConfig) -> None:
    assert_same(*pair(weights, engine, tta=tta), waves(61, 97))


@each_engine
@pytest.mark.parametrize("tta", ["none", "flip"])
def test_tiles(engine: str, weights: Path, tta: str) -> None:
    assert_same(*pair(weights, engine, tile=65, tta=tta), waves(90, 140))


@each_engine
def test_batches(engine: str, weights: Path) -> None:
    loaded, eager = pair(weights, engine)
    pictures = [waves(61, 97), waves(61, 97)[::-1], waves(40, 50)]
    for result, expected in zip(loaded.segment_many(pictures, batch=2), map(eager, pictures), strict=True):
        assert (result.labels == expected.labels).mean() > 0.999


@each_engine
def test_smoothed_video(engine: str, weights: Path) -> None:
    loaded, eager = pair(weights, engine)
    smoothers = TemporalSmoother(0.5), TemporalSmoother(0.5)
    for frame in (waves(60, 80), waves(60, 80)[:, ::-1]):
        labels = [
            smoother(segmenter.predict_coarse(frame)).labels()
            for smoother, segmenter in zip(smoothers, (loaded, eager), strict=True)
        ]
        assert (labels[0] == labels[1]).mean() > 0.999


@each_engine
def test_refinement_by_a_crf(engine: str, weights: Path) -> None:
    labels = [segment(segmenter, waves(61, 97), "v2").labels for segmenter in pair(weights, engine)]
    assert (labels[0] == labels[1]).mean() > 0.999


class Pictures:
    """Two pictures whose truth is what a network predicts."""

    classes = tuple("abcde")
    ignore_index = 255

    def __init__(self, segmenter: Segmenter) -> None:
        pictures = [waves(61, 97), waves(50, 70)[::-1].copy()]
        self.samples = [
            Sample(pixels, segmenter(pixels).labels, str(index), Path(f"{index}.png"), None)
            for index, pixels in enumerate(pictures)
        ]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int, /) -> Sample:
        return self.samples[index]


@each_engine
def test_evaluation(engine: str, weights: Path) -> None:
    loaded, eager = pair(weights, engine)
    result = evaluate(loaded, Pictures(eager), boundaries=False)
    assert result.confusion.pixel_accuracy > 0.999
    assert 0 < result.network_seconds <= result.seconds


@each_engine
def test_output_stride(engine: str, weights: Path) -> None:
    loaded, eager = pair(weights, engine)
    coarse = loaded(waves(61, 97)).labels
    eager.set_output_stride(8)
    assert loaded.set_output_stride(8) is loaded
    assert loaded.output_stride == loaded.model.output_stride == 8
    assert_same(loaded, eager, waves(61, 97))
    loaded.model.set_output_stride(16)  # followed as well
    assert (loaded(waves(61, 97)).labels == coarse).all()
    assert loaded.output_stride == 16
    assert_same(Segmenter.load(weights, engine=engine, output_stride=8, device="cpu"), eager, waves(61, 97))


def test_other_rates_than_the_default(tmp_path: Path) -> None:
    model = small_network(atrous_rates=[2, 4, 6])
    weights = save(model, tmp_path / "rates.safetensors")
    assert_same(Segmenter.load(weights, device="cpu"), Segmenter(model, device="cpu"), waves(61, 97))


def test_a_large_image_is_tiled_if_memory_is_short(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atrous.inference.runner.SMALL_IMAGE_PIXELS", 100)
    monkeypatch.setattr("atrous.inference.runner.free_memory", lambda device: 1e5)
    monkeypatch.setattr("atrous.inference.segmenter.FALLBACK_TILE", 65)
    loaded, eager = pair(weights, "onnxruntime")
    tiled = Segmenter(small_network(), device="cpu", tile=65)
    assert (loaded(waves(100, 120)).labels == tiled(waves(100, 120)).labels).mean() > 0.999
    assert eager.tile is None


FORBID_SOCKETS = """if True:
    import ctypes, platform, struct

    # A filter of system calls that kills the process when it, or a library in it, opens a socket to a network.
    number = {"x86_64": 41, "aarch64": 198}[platform.machine()]
    allow, kill = 0x7FFF0000, 0x80000000
    program = [
        (0x20, 0, 0, 0),  # load the number of the call
        (0x15, 0, 3, number),  # unless it is `socket`, allow it
        (0x20, 0, 0, 16),  # load the first argument, the domain
        (0x15, 2, 0, 2),  # AF_INET
        (0x15, 1, 0, 10),  # AF_INET6
        (0x06, 0, 0, allow),
        (0x06, 0, 0, kill),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
    filtered = Program(len(program), ctypes.addressof(code))
    assert libc.prctl(22, 2, ctypes.byref(filtered), 0, 0) == 0, ctypes.get_errno()
"""

PREDICT = """if True:
    import sys

    from atrous.inference import Segmenter

    weights, image, engine, target = sys.argv[1:]
    segmenter = Segmenter.load(weights, engine=engine, device="cpu")
    segmenter(image).save(target)
    assert segmenter.engine.name == engine
    print("torch" in sys.modules)
"""


def predict_alone(engine: str, weights: Path, tmp_path: Path) -> tuple[str, list[Path]]:
    """Predict in a process without sockets and with a home folder of its own; return its output and the files there."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    Image.fromarray(waves(60, 90)).save(tmp_path / "a.png")
    drop = ("ATROUS_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in drop and not key.startswith("ORT_")}
    environment |= {"HOME": str(home), "NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    code = FORBID_SOCKETS + PREDICT
    arguments = [sys.executable, "-c", code, str(weights), str(tmp_path / "a.png"), engine, str(tmp_path / "b.png")]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b.png").is_file()
    return done.stdout.strip(), [path for path in home.rglob("*") if path.is_file()]


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="other systems have other folders and system calls")


@linux_only
def test_the_filter_of_system_calls_works() -> None:
    code = FORBID_SOCKETS + "import socket; print('open', flush=True); socket.socket()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("open\n", -signal.SIGSYS), done.stderr


@linux_only
@each_engine
def test_nothing_is_sent_and_only_the_cache_is_written(engine: str, weights: Path, tmp_path: Path) -> None:
    _, files = predict_alone(engine, weights, tmp_path)
    own = tmp_path / "home" / ".cache" / "atrous" / "engines"
    assert all(path.parent == own for path in files)
    assert sum(path.suffix == ".onnx" for path in files) == (engine in ("onnxruntime", "openvino"))


@linux_only
def test_a_cached_network_runs_without_torch(weights: Path, tmp_path: Path) -> None:
    printed = [predict_alone("onnxruntime", weights, tmp_path)[0] for _ in range(2)]
    assert printed == ["True", "False"]


LOAD = """if True:
    import logging, sys

    logging.basicConfig(level=logging.INFO)
    from atrous.inference import Segmenter

    print(Segmenter.load(sys.argv[1], device="cpu").engine.name)
"""


def test_two_processes_convert_a_network_once(weights: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "ATROUS_CACHE": str(tmp_path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LOAD, str(weights)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in processes]
    assert [output.strip() for output, _ in outputs] == ["onnxruntime"] * 2, outputs
    assert sum(errors.count("Converting small.safetensors") for _, errors in outputs) == 1
    assert len(list((tmp_path / "engines").glob("*.onnx"))) == 1


def test_preprocessing_of_the_card_applies(tmp_path: Path) -> None:
    model = small_network()
    preprocessing = Preprocessing(resize="squeeze", size=(65, 65), channel_order="BGR", mean=(100, 110, 120))
    model.card = model.card.model_copy(update={"preprocessing": preprocessing})
    weights = save(model, tmp_path / "squeezed.safetensors")
    assert_same(Segmenter.load(weights, device="cpu"), Segmenter(model, device="cpu"), waves(90, 120))
