from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from atrous import Segmenter
from atrous.inference import memory
from tests.inference.networks import SmallNetwork, letter_card, noise


def test_the_estimate_counts_inputs_and_outputs_of_the_widest_layer() -> None:
    model = SmallNetwork(False).eval()
    needs = memory.bytes_per_pixel(model, model.scores, torch.device("cpu"))
    widest = 4 * (3 + 8 / 4)  # the first convolution: 3 channels in, 8 out at half the size
    assert needs == pytest.approx(2 * widest, rel=0.1)
    assert memory.free_memory("cpu") > 2**20


def test_large_labels_are_memory_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MEMMAP_PIXELS", 1000)
    result = Segmenter(SmallNetwork(True), letter_card(True), device="cpu", tile=65)(noise(70, 80))
    assert isinstance(result.labels, np.memmap)
    assert sum(result.class_fractions().values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_errors_are_recognized(error: Exception, expected: bool) -> None:
    assert memory.is_out_of_memory(error) == expected


def test_memory_that_torch_keeps_for_reuse_on_a_gpu_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 80)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 30)
    assert memory.free_memory("cuda:0") == 60


def test_a_container_has_its_limit_less_what_is_used_without_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "CGROUP_OF_PROCESS", tmp_path / "process")

    def write(group: str, limit: str, current: int, stat: str = "inactive_file 0\nactive_file 0") -> None:
        folder = tmp_path / "cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (("memory.max", limit), ("memory.current", str(current)), ("memory.stat", stat)):
            (folder / name).write_text(f"{content}\n")

    assert memory.free_memory("cpu") > 2**20
    write("", "9000", 8000, "anon 500\nfile 7700\ninactive_anon 100\ninactive_file 7000\nactive_file 400")
    (tmp_path / "process").write_text("0::/\n")
    assert memory.free_memory("cpu") == 9000 - 8000 + 7400
    write("a.slice", "5000", 2000)
    write("a.slice/b", "max", 1000)
    (tmp_path / "process").write_text("1:cpu:/other\n0::/a.slice/b\n")
    assert memory.free_memory("cpu") == 5000 - 2000  # of the parent
    write("a.slice/b", "1500", 1000)
    assert memory.free_memory("cpu") == 500
    (tmp_path / "process").write_text("0::/../elsewhere\n")  # a group that is not mounted here
    assert memory.free_memory("cpu") == 9000 - 8000 + 7400
    (tmp_path / "process").unlink()
    (tmp_path / "cgroup" / "memory.max").unlink()
    assert memory.free_memory("cpu") > 2**20
