"""Load `atrous serve` with twice the requests that it can answer, for minutes, then stop it in the middle of them.

    python benchmarks/serve_load.py --minutes 10 [-w WEIGHTS] [--photograph FILE] [--json FILE]

The capacity is that of the engine alone: forward passes of prepared inputs, measured in a process of its own before and
after the load, with batches of one and of four. Requests are sent by locust at twice this rate, with the same
photograph, encoded once. Asked for are: no answer but 200, 429 and 503; a throughput within 15 % of the engine's alone;
no growth of the server's memory after the first minute; and, after SIGTERM, an answer to every accepted request.

Server and load generator share the cores of this machine; the processor time of both is told. The exit code is 1 if
something that was asked for is not met.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_WEIGHTS = "deeplab_v3_plus.efficientnet_lite0.camvid"
BATCHES = (1, 4)
EXPECTED = {200, 429, 503}
SAMPLE_SECONDS = 10.0


class Sent(NamedTuple):
    """A request: when it was sent, the seconds until its answer, and the status; 0 is a connection without answer."""

    time: float
    seconds: float
    status: int
    error: str = ""


@dataclass
class Load:
    """What was sent in a period, and what was measured meanwhile."""

    sent: list[Sent] = field(default_factory=list)
    resident: list[tuple[float, int]] = field(default_factory=list)
    generator_seconds: float = 0.0
    server_seconds: float = 0.0
    seconds: float = 0.0

    def count(self, status: int) -> int:
        return sum(each.status == status for each in self.sent)

    def milliseconds(self, quantile: int) -> float:
        """The quantile, in percent, of the latency of answers 200."""
        latencies = [each.seconds for each in self.sent if each.status == 200]
        return 1000 * statistics.quantiles(latencies, n=100)[quantile - 1]


def engine_throughput(weights: str, photograph: Path, seconds: float) -> float:
    """Measure the images per second of forward passes alone, by the better one of `BATCHES`."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from atrous import Segmenter
    from atrous.imaging.io import read_image
    from atrous.inference.preprocess import preprocess

    segmenter = Segmenter.load(weights, throughput=True)
    one = preprocess(read_image(photograph), segmenter.card.preprocessing)[0][None]
    rates = []
    for size in BATCHES:
        batch = np.concatenate([one] * size)
        segmenter.engine(batch)

        def run(until: float, batch: Any = batch) -> int:
            images = 0
            while time.perf_counter() < until:
                segmenter.engine(batch)
                images += len(batch)
            return images

        start = time.perf_counter()
        with ThreadPoolExecutor(segmenter.engine.parallel) as threads:
            counts = list(threads.map(run, [start + seconds / len(BATCHES)] * segmenter.engine.parallel))
        rates.append(sum(counts) / (time.perf_counter() - start))
    return max(rates)


class Server:
    """`atrous serve` in a process of its own."""

    def __init__(self, weights: str, arguments: Sequence[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "atrous", "serve", "-w", weights, "--port", str(self.port), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while not self._is_ready():
            if self.process.poll() is not None:
                raise SystemExit("the server has stopped")
            time.sleep(0.2)

    def _is_ready(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5):
                return True
        except OSError:
            return False

    def resident_bytes(self) -> int:
        (kilobytes,) = re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return 1024 * int(kilobytes)

    def processor_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def apply_load(server: Server, body: bytes, rate: float, users: int, seconds: float) -> tuple[Load, Load, int | None]:
    """Send requests at a rate for a time, then SIGTERM while they go on.

    Returns the load before the signal, that from the signal to the end of the server, and the server's exit code.
    """
    import gevent
    from locust import FastHttpUser, constant_throughput, task
    from locust.env import Environment

    sent: list[Sent] = []

    class Client(FastHttpUser):
        host = f"http://127.0.0.1:{server.port}"
        wait_time = constant_throughput(rate / users)
        connection_timeout = network_timeout = 120.0
        max_retries = 0

        def on_start(self) -> None:
            gevent.sleep(random.random() * users / rate)  # the rate is that of all users from the beginning

        @task
        def segment(self) -> None:
            start = time.monotonic()
            headers = {"Content-Type": "image/jpeg"}
            with self.client.post(
                "/v1/segment?format=png", data=body, headers=headers, catch_response=True
            ) as response:
                error = "" if response.status_code else repr(response.error)
                sent.append(Sent(start, time.monotonic() - start, response.status_code, error))
                response.success()

    environment = Environment(user_classes=[Client])
    runner = environment.create_local_runner()
    load, stopped = Load(), Load()
    begin, generator, worked = time.monotonic(), _own_seconds(), server.processor_seconds()
    runner.start(users, spawn_rate=users)
    while (now := time.monotonic()) < begin + seconds:
        load.resident.append((now - begin, server.resident_bytes()))
        gevent.sleep(min(SAMPLE_SECONDS, begin + seconds - now))
    load.seconds = time.monotonic() - begin
    load.generator_seconds = _own_seconds() - generator
    load.server_seconds = server.processor_seconds() - worked
    signaled = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    while server.process.poll() is None and time.monotonic() < signaled + 120:
        gevent.sleep(0.05)
    stopped.seconds = time.monotonic() - signaled
    gevent.sleep(0.5)  # answers that are on their way
    runner.quit()
    for each in sent:
        part = load if each.time < signaled else stopped
        part.sent.append(each)
        if each.error:
            print(
                f"sent {each.time - begin:.2f} s after the begin, {each.seconds:.2f} s: {each.error}", file=sys.stderr
            )
    return load, stopped, server.process.poll()


def _own_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def alone(weights: str, photograph: Path, seconds: float) -> float:
    """Measure the engine in a process of its own, which leaves no memory behind, and is without locust's gevent."""
    command = [sys.executable, __file__, "-w", weights, "--photograph", str(photograph), "--engine-alone", str(seconds)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def summarize(load: Load, stopped: Load, engine: float, exit_code: int | None) -> dict[str, Any]:
    """Compare what was measured with what was asked for."""
    steady = [number for seconds, number in load.resident if seconds >= 60] or [load.resident[-1][1]]
    throughput = sum(each.status == 200 for each in load.sent) / load.seconds
    codes = dict(sorted(collections.Counter(each.status for each in load.sent).items()))
    after = dict(sorted(collections.Counter(each.status for each in stopped.sent).items()))
    return {
        "engine alone, images/s": round(engine, 2),
        "server, images/s": round(throughput, 2),
        "server / engine": round(throughput / engine, 3),
        "minutes": round(load.seconds / 60, 2),
        "sent per second": round(len(load.sent) / load.seconds, 2),
        "answers": codes,
        "p50 of 200, ms": round(load.milliseconds(50)),
        "p99 of 200, ms": round(load.milliseconds(99)),
        "resident MB, each 10 s": [round(number / 1e6) for _, number in load.resident],
        "growth of memory after the first minute, MB": round((steady[-1] - steady[0]) / 1e6, 1),
        "processor time of the load generator, cores": round(load.generator_seconds / load.seconds, 3),
        "processor time of the server, cores": round(load.server_seconds / load.seconds, 3),
        "after SIGTERM": after,
        "seconds from SIGTERM to the end": round(stopped.seconds, 2),
        "exit code": exit_code,
        "unexpected answers": sum(count for status, count in codes.items() if status not in EXPECTED),
    }


def failures(result: dict[str, Any]) -> list[str]:
    """List what was asked for and is not met."""
    checks = {
        "answers other than 200, 429 and 503": result["unexpected answers"] == 0,
        "throughput more than 15 % below the engine's": result["server / engine"] >= 0.85,
        "memory grew by more than 5 %": result["growth of memory after the first minute, MB"]
        <= 0.05 * result["resident MB, each 10 s"][-1],
        "the server did not end with 0": result["exit code"] == 0,
        # Connections that arrive while the server closes find nobody; those it had accepted are answered.
        "answers after SIGTERM other than 200, 429 and 503": set(result["after SIGTERM"]) <= EXPECTED | {0},
    }
    return [name for name, met in checks.items() if not met]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("-w", "--weights", default=DEFAULT_WEIGHTS)
    parser.add_argument("--photograph", type=Path, default=ROOT / "examples" / "street.jpg")
    parser.add_argument("--users", type=int, default=160, help="more than the queue of the server takes")
    parser.add_argument("--engine-seconds", type=float, default=30.0)
    parser.add_argument("--engine-alone", type=float, help="measure the engine for this many seconds, and nothing else")
    parser.add_argument("--json", type=Path)
    parser.add_argument("server", nargs="*", help="further options of `atrous serve`, after --")
    arguments = parser.parse_args()
    if arguments.engine_alone:
        print(engine_throughput(arguments.weights, arguments.photograph, arguments.engine_alone))
        return
    body = arguments.photograph.read_bytes()
    before = alone(arguments.weights, arguments.photograph, arguments.engine_seconds)
    server = Server(arguments.weights, arguments.server)
    try:
        load, stopped, exit_code = apply_load(server, body, 2 * before, arguments.users, 60 * arguments.minutes)
    finally:
        if server.process.poll() is None:
            server.process.kill()
    after = alone(arguments.weights, arguments.photograph, arguments.engine_seconds)
    result = summarize(load, stopped, (before + after) / 2, exit_code)
    result["engine before and after, images/s"] = [round(before, 2), round(after, 2)]
    for name, value in result.items():
        print(f"{name:45} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    missed = failures(result)
    print("\n".join(f"NOT MET: {name}" for name in missed) or "all that was asked for is met")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
