"""Fuzz the readers of files by atheris, guided by the coverage of their code: `make fuzz`.

    python -m tests.hostile.fuzz [--seconds 600] [TARGET ...]

Each target runs in a process of its own. Whatever a reader raises but an `AtrousError` in one line ends it, as do 20
seconds and 4 GiB; the input is then in a file `crash-*` in the folder of the target, with which `--input` repeats it.
Texts are fuzzed as they are. Of a binary format, the input is a list of edits of a small valid file, so that the fuzzer
finds what lies behind magic numbers, offsets and checksums.
"""

from __future__ import annotations

import argparse
import re
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

EDIT = struct.Struct("<BIQ")
"""An edit: what is done, where, and a number."""
MODULES = ("atrous.weights", "atrous.data", "atrous.card", "atrous.schema", "atrous.parsing", "atrous.imaging.archives")
"""The code whose coverage guides the fuzzer."""
COMPILED = ("atrous.weights.importers.crc32c", "atrous.weights.importers.snappy")
"""Code that numba compiles, in which coverage cannot be measured."""


@dataclass(frozen=True)
class Target:
    """A reader, the kind of files that it reads, and whether these are fuzzed by edits."""

    kind: str
    read: str
    edits: bool = True


TARGETS = {
    "tflite": Target("tflite", "imported"),
    "tensorflow-index": Target("tensorflow index with right checksums", "imported"),
    "tensorflow-graph": Target("pb", "imported"),
    "caffe": Target("caffemodel", "imported"),
    "caffe-2014": Target("caffemodel of 2014", "imported"),
    "state-dict": Target("pth with right checksums", "imported"),
    "old-state-dict": Target("pth before torch 1.6", "imported"),
    "safetensors": Target("safetensors", "header"),
    "card": Target("card", "card", edits=False),
    "npy": Target("npy", "crf_input"),
    "npz": Target("npz without compression", "probabilities"),
    "mat": Target("mat", "matlab"),
    "classes": Target("classes.yaml", "classes", edits=False),
    "coco": Target("coco instances", "coco_voc", edits=False),
    "panoptic": Target("coco panoptic", "coco_panoptic", edits=False),
}


def apply_edits(content: bytes, data: bytes, spots: list[int]) -> bytes:
    """Edit a content as an input says: overwrite, insert and remove numbers at spots, or anywhere, or cut it off."""
    edited = bytearray(content)
    for action, place, value in EDIT.iter_unpack(data[: len(data) // EDIT.size * EDIT.size]):
        width = (1, 2, 4, 8)[action >> 3 & 3]
        number = (value % (1 << 8 * width)).to_bytes(width, "big" if action & 32 else "little")
        position = spots[place % len(spots)] if spots and action & 64 else place % max(1, len(edited))
        if action & 7 == 6:
            del edited[position : position + value % 4096]
        elif action & 7 == 7:
            del edited[position:]
        elif action & 7 == 5:
            edited[position:position] = number
        else:
            edited[position : position + width] = number
    return bytes(edited)


def fuzz(name: str, seconds: int, folder: Path, given: Path | None) -> None:
    """Fuzz one target in this process, which then ends; or read one `given` input."""
    import atheris

    with atheris.instrument_imports(include=list(MODULES), exclude=list(COMPILED)):
        from atrous import AtrousError
        from tests.hostile import readers
        from tests.hostile.test_damage import KINDS

    target, kind = TARGETS[name], KINDS[TARGETS[name].kind]
    (folder / "file").mkdir(parents=True)
    (folder / "corpus").mkdir()
    path = kind.write(folder / "file")
    file = kind.target(path, folder / "file")
    content = kind.unwrap(file.read_bytes())
    spots, read = kind.spots(content), getattr(readers, target.read)
    text = target.edits is False
    (folder / "corpus" / "valid").write_bytes(content if text else bytes(EDIT.size))

    def one(data: bytes) -> None:
        damaged = data if text else apply_edits(content, data, spots)
        file.write_bytes(damaged if target.read == "card" else kind.wrap(damaged))
        try:
            read(path, path)
        except AtrousError as error:
            if "\n" in str(error):
                raise ValueError("an error of several lines") from error

    if given is not None:
        one(given.read_bytes())
        return
    one(content if text else b"")  # what is compiled at first use is no slow input
    length = 20_000 if text else 8 * EDIT.size
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={folder}/", "-timeout=20", "-rss_limit_mb=4096"]
    atheris.Setup([sys.argv[0], *options, f"-max_len={length}", "-print_final_stats=1", str(folder / "corpus")], one)
    atheris.Fuzz()


def main() -> None:
    """Fuzz targets one after the other, and print how many inputs were tried."""
    parser = argparse.ArgumentParser(description="Fuzz the readers of files.")
    parser.add_argument("targets", nargs="*", help=f"by default all: {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=600, help="for each target")
    parser.add_argument("--out", type=Path, help="a folder for inputs; by default a new one")
    parser.add_argument("--input", type=Path, help="read this input once, instead of fuzzing")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - TARGETS.keys():
        parser.error(f"unknown targets: {', '.join(unknown)}")
    out = arguments.out or Path(tempfile.mkdtemp(prefix="atrous-fuzz-"))
    if arguments.here or arguments.input:
        fuzz(arguments.targets[0], arguments.seconds, Path(tempfile.mkdtemp(dir=out)), arguments.input)
        return
    failed = [name for name in arguments.targets or TARGETS if not run(name, arguments.seconds, out)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the inputs are below {out}")


def run(name: str, seconds: int, out: Path) -> bool:
    """Fuzz a target in a process of its own; return whether nothing was found."""
    command = [sys.executable, "-m", "tests.hostile.fuzz", name, "--here", "--seconds", str(seconds), "--out", str(out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    executed = re.search(r"number_of_executed_units: (\d+)", done.stdout)
    outcome = "FAILED" if done.returncode else "nothing found"
    print(f"{name}: {int(executed[1]) if executed else 0:,} inputs, {outcome}")
    if done.returncode:
        print(done.stdout[-4000:])
    sys.stdout.flush()
    return done.returncode == 0


if __name__ == "__main__":
    main()
