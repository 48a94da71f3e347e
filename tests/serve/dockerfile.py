"""Run the steps of a Dockerfile without a container engine.

The base image is replaced by this machine's own file system: each stage is an overlay over it, so that what a step
writes stays in a folder of its own. `Container` runs the result as an engine would: in namespaces of its own for
mounts, processes and network, as the user of the image, with a read-only root, and without capabilities.

Only the instructions in `KNOWN` are understood; others raise an error, so that file and test do not diverge.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

KNOWN = {"FROM", "ARG", "ENV", "RUN", "COPY", "WORKDIR", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK"} | {
    "ENTRYPOINT",
    "CMD",
}
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Stage:
    """A stage of a build: its folder of written files, and what its instructions declare."""

    name: str
    folder: Path
    env: dict[str, str]
    args: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"
    volumes: list[str] = field(default_factory=list)
    port: int = 0
    healthcheck: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    @property
    def files(self) -> Path:
        """The written files: the upper layer of the overlay."""
        return self.folder / "files"

    @property
    def layers(self) -> str:
        """The options of the overlay over this machine's file system."""
        return f"lowerdir=/,upperdir={self.files},workdir={self.folder / 'work'}"

    def inside(self, path: str) -> str:
        """Make a path absolute by the working folder."""
        return os.path.normpath(os.path.join(self.workdir, path))


def parse(text: str) -> list[tuple[str, str]]:
    """Split a Dockerfile into instructions and their arguments."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", "\n", "\n".join(lines).replace("\\\n", " "))
    instructions = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        keyword, _, argument = line.partition(" ")
        if keyword not in KNOWN:
            raise ValueError(f"{keyword} is not an instruction that these tests can run: add it to {__file__}")
        instructions.append((keyword, " ".join(argument.split()) if keyword != "RUN" else argument.strip()))
    return instructions


def build_context(root: Path, folder: Path) -> Path:
    """Copy what .dockerignore lets pass: `*` first, then exceptions, then patterns of names anywhere."""
    everything, *patterns = [
        line for line in (root / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")
    ]
    assert everything == "*"
    names = [pattern.removeprefix("**/") for pattern in patterns if pattern.startswith("**/")]
    kept = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    assert len(names) + len(kept) == len(patterns)

    def ignored(_: str, entries: Iterable[str]) -> set[str]:
        return {entry for entry in entries if any(fnmatch.fnmatch(entry, name) for name in names)}

    for path in kept:
        source, target = root / path, folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=ignored)
        else:
            shutil.copy(source, target)
    return folder


def substitute(text: str, values: Mapping[str, str]) -> str:
    """Replace $NAME and ${NAME} by build arguments and environment."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: values[match[1] or match[2]], text)


class Build:
    """Run the steps of a Dockerfile: `Build(text, context, folder, arguments).stage` is the last stage."""

    def __init__(self, text: str, context: Path, folder: Path, arguments: Mapping[str, str]) -> None:
        self.context = context
        self.folder = folder
        self.arguments = arguments
        self.stages: dict[str, Stage] = {}
        self.defaults: dict[str, str] = {}  # of arguments before the first stage
        for keyword, argument in parse(text):
            getattr(self, f"_{keyword.lower()}")(argument)

    def _from(self, argument: str) -> None:
        image, *rest = substitute(argument, self.defaults).split(" AS ")
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        assert image == f"python:{version}-slim", f"{image}: the tests run with Python {version}"
        name = rest[0] if rest else str(len(self.stages))
        folder = self.folder / name
        for part in ("files", "work"):
            (folder / part).mkdir(parents=True)
        python = Path(sys.base_prefix)
        self.stage = Stage(name, folder, {"PATH": f"{python}/bin:{SYSTEM_PATH}"})
        self.stages[name] = self.stage
        for parent in reversed(python.parents[:-1]):  # as in an image, everyone may use the interpreter
            (self.stage.files / parent.relative_to("/")).mkdir(mode=0o755)
        (self.stage.files / "tmp").mkdir(exist_ok=True)
        (self.stage.files / "tmp").chmod(0o1777)

    def _arg(self, argument: str) -> None:
        name, _, default = argument.partition("=")
        value = self.arguments.get(name, default.strip('"'))
        (self.stage.args if self.stages else self.defaults)[name] = value

    def _env(self, argument: str) -> None:
        for assignment in shlex.split(substitute(argument, {**self.stage.args, **self.stage.env})):
            name, _, value = assignment.partition("=")
            self.stage.env[name] = value

    def _workdir(self, argument: str) -> None:
        self.stage.workdir = argument
        (self.stage.files / argument.lstrip("/")).mkdir(parents=True, exist_ok=True)

    def _user(self, argument: str) -> None:
        self.stage.user = argument

    def _volume(self, argument: str) -> None:
        self.stage.volumes.append(argument)

    def _expose(self, argument: str) -> None:
        self.stage.port = int(argument)

    def _stopsignal(self, argument: str) -> None:
        assert argument == "SIGTERM"

    def _healthcheck(self, argument: str) -> None:
        self.stage.healthcheck = json.loads(argument.split(" CMD ")[1])

    def _entrypoint(self, argument: str) -> None:
        self.stage.entrypoint = json.loads(argument)

    def _cmd(self, argument: str) -> None:
        self.stage.command = json.loads(argument)

    def _copy(self, argument: str) -> None:
        *sources, target = argument.split()
        origin = self.context
        if sources[0].startswith("--from="):
            origin = self.stages[sources.pop(0).removeprefix("--from=")].files
        several = target.endswith("/") or len(sources) > 1
        for source in sources:
            path, into = origin / source.lstrip("/"), Path(str(self.stage.files) + self.stage.inside(target))
            if several and not path.is_dir():
                into = into / path.name
            into.parent.mkdir(parents=True, exist_ok=True)
            # Links instead of copies: no later step of the stage changes these files.
            link = ["--link"] if origin != self.context else []
            subprocess.run(["cp", "--archive", "--no-target-directory", *link, path, into], check=True)

    def _run(self, argument: str) -> None:
        stage = self.stage
        root = stage.folder / "root"
        script = [
            *_mounts(root, stage.layers),
            f"cd {root}{stage.workdir}",
            f"exec chroot {root} /bin/sh -c {shlex.quote(f'cd {stage.workdir} && {argument}')}",
        ]
        environment = {"HOME": "/root", **stage.args, **stage.env}
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-ec", "\n".join(script)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"RUN {argument}\n{done.stdout[-4000:]}"


def _mounts(root: Path, layers: str) -> list[str]:
    """List the commands that mount the file system of a stage, without the caches of whoever runs the tests."""
    root.mkdir(exist_ok=True)
    masked = [path for path in (Path.home() / ".cache", Path(__file__).resolve().parents[2]) if path.is_dir()]
    return [
        f"mount -t overlay overlay -o {layers} {root}",
        f"mount -t proc proc {root}/proc",
        f"mount --rbind /dev {root}/dev",
        *(f"mount -t tmpfs -o mode=755 tmpfs {root}{path}" for path in masked),
        f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp",
    ]


class Container:
    """Run the last stage of a build with a read-only root, until the end of a `with` block.

    Only /tmp and the volumes are writable. The network is a loopback device of its own.
    """

    def __init__(self, stage: Stage, folder: Path, arguments: Iterable[str] = ()) -> None:
        self.stage = stage
        self.log = folder / "log"
        root = folder / "root"
        volumes = []
        for volume in stage.volumes:  # engines copy owner and mode of the image's folder
            status = (stage.files / volume.lstrip("/")).stat()
            options = f"mode={status.st_mode & 0o777:o},uid={status.st_uid},gid={status.st_gid}"
            volumes.append(f"mount -t tmpfs -o {options} tmpfs {root}{volume}")
        command = [*stage.entrypoint, *(arguments or stage.command)]
        script = [
            *_mounts(root, stage.layers),
            f"mount -o remount,ro {root}",
            *volumes,
            f"{sys.executable} -c {shlex.quote(LOOPBACK_UP)}",
            f"exec {self._unprivileged(root)} {shlex.join(command)}",
        ]
        namespaces = ["--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                ["unshare", *namespaces, "sh", "-ec", "\n".join(script)], stdout=log, stderr=subprocess.STDOUT
            )

    def _unprivileged(self, root: Path | str) -> str:
        """Write the beginning of a command that runs as the user of the image, in its environment alone."""
        user, group = self.stage.user.split(":")
        privileges = f"--reuid {user} --regid {group} --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs"
        environment = shlex.join(
            f"{name}={value}" for name, value in {"HOME": "/nonexistent", **self.stage.env}.items()
        )
        return f"chroot {root} setpriv {privileges} env -i -C {self.stage.workdir} {environment}"

    @property
    def pid(self) -> int:
        """The process that runs the entry point: process 1 of the container."""
        while not (children := Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()):
            assert self.process.poll() is None, f"the container has stopped:\n{self.log.read_text()[-4000:]}"
            time.sleep(0.01)
        return int(children[0])

    def execute(self, command: Iterable[str], *, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run a command inside, as `docker exec` would."""
        script = f"exec {self._unprivileged('/')} {shlex.join(command)}"
        return subprocess.run(
            ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--net", "--root", "sh", "-c", script],
            input=input,
            capture_output=True,
            check=False,
        )

    def healthy(self) -> bool:
        """Run the health check of the image."""
        return self.execute(self.stage.healthcheck).returncode == 0

    def wait_until_healthy(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self.healthy():
            assert self.process.poll() is None, f"the container has stopped:\n{self.log.read_text()[-4000:]}"
            assert time.monotonic() < end, f"the container is not healthy:\n{self.log.read_text()[-4000:]}"
            time.sleep(0.5)

    def stop(self, seconds: float) -> int:
        """Send SIGTERM as `docker stop` does, and return the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.process.wait(seconds)

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()  # with --kill-child, everything inside ends, too
            self.process.wait()


LOOPBACK_UP = """
import fcntl, socket, struct
with socket.socket() as s:  # SIOCSIFFLAGS with IFF_UP | IFF_RUNNING
    fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x41))
"""
