"""`atrous serve`: the HTTP API, and the page to try it in a browser."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from atrous.cli.options import Device, Engine, Precision
from atrous.cli.predict import DEFAULT_WEIGHTS
from atrous.console import print_line
from atrous.errors import AtrousError

TOKEN_VARIABLE = "ATROUS_TOKEN"
"""The environment variable of the token."""


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Exit with 143 on SIGTERM while the server is prepared; as the first process of a container it would ignore it."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@_exit_on_sigterm()
def serve(
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights",
            "-w",
            help=f"An id (see `atrous weights`), a file, or ID=FILE; may be repeated, the first is the default of "
            f"requests. By default {DEFAULT_WEIGHTS}. No others are loaded.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on: 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 is any free one.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help=f"A file with a token that requests need, as bearer token or as password; or the token in "
            f"{TOKEN_VARIABLE}."
        ),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="The largest number of images in a forward pass; by default 1 on the CPU, 8 on a GPU."
        ),
    ] = None,
    max_body_mb: Annotated[
        float, typer.Option(min=0.001, help="The size of a request in megabytes; larger ones: 413.")
    ] = 32.0,
    max_held_mb: Annotated[
        float, typer.Option(min=0.001, help="The megabytes of all requests in progress together; more: 503.")
    ] = 512.0,
    max_megapixels: Annotated[
        float,
        typer.Option(min=0.001, max=67, help="The size of an image, checked before it is decoded; larger ones: 413."),
    ] = 32.0,
    max_probabilities: Annotated[
        float,
        typer.Option(
            min=0.001,
            help="Megapixels times classes of requests for probabilities or a CRF, which take 4 bytes each several "
            "times over; larger ones: 413.",
        ),
    ] = 134.0,
    max_queue: Annotated[int, typer.Option(min=1, help="Requests in progress; more: 429 with Retry-After.")] = 64,
    max_uploads: Annotated[
        int, typer.Option(min=1, help="Requests that are being received at the same time; more: 503.")
    ] = 256,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds from the acceptance of a request to its result; longer: 503.")
    ] = 60.0,
    client_timeout: Annotated[
        float,
        typer.Option(min=0.1, help="Seconds that a client may take to send a request, or not read the response; 408."),
    ] = 20.0,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Offer the page, or the API alone.")] = True,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
) -> None:
    """Serve segmentation over HTTP: an API, its documentation, and a page for the browser.

    Images that arrive together and have the same size share a forward pass. Nothing of a request is written to disk,
    and nothing is sent to, or loaded from, other machines. SIGTERM or Ctrl-C finishes the requests in progress and
    takes no new ones; the exit code is then 0, or 130 after Ctrl-C.

    Examples:

      atrous serve

      atrous serve -w deeplab_v3.mobilenet_v2.voc -w street=runs/best.safetensors --port 8080

      atrous serve --host 0.0.0.0 --token-file token.txt --max-megapixels 12
    """
    _check_installed(page)
    from atrous.serve.limits import Limits
    from atrous.serve.server import listen

    token = _read_token(token_file)
    limits = Limits(
        body_bytes=int(max_body_mb * 1e6),
        held_bytes=int(max_held_mb * 1e6),
        pixels=int(max_megapixels * 1e6),
        probability_values=int(max_probabilities * 1e6),
        queue=max_queue,
        uploads=max_uploads,
        seconds=timeout,
        client_seconds=client_timeout,
    )
    listener = listen(host, port)
    if token is None and not _is_loopback(listener):
        print_line(
            "[yellow]warning[/]: anyone who reaches {} can use this service: see --token-file", host, stderr=True
        )
    _run(
        weights or [DEFAULT_WEIGHTS],
        listener,
        token,
        page,
        limits=limits,
        max_batch=max_batch,
        device=device,
        engine=engine,
        precision=precision,
    )


def _run(weights: list[str], listener: socket.socket, token: str | None, page: bool, **options: Any) -> None:
    """Load the weights, and serve until a signal."""
    from atrous.serve.app import create_app
    from atrous.serve.server import run_server
    from atrous.serve.service import Service

    service = Service(weights, **options)
    service.warm_up()
    app = create_app(service, token=token)
    if page:
        from atrous.serve.page import mount_page

        mount_page(app, service)
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def print_addresses() -> None:
        print_line("models    {}", ", ".join(service.models))
        if page:
            print_line("page      {}/page/", address)
        print_line("API       {}/docs", address)
        print_line("health    {}/healthz", address)
        print_line("Ctrl-C stops the service.")
        sys.stdout.flush()

    if run_server(app, service, listener, print_addresses) == signal.SIGINT:
        raise KeyboardInterrupt


def _check_installed(page: bool) -> None:
    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client", *(["gradio"] if page else [])):
        if importlib.util.find_spec(package) is None:
            raise AtrousError(f"{package} is not installed: pip install 'atrous[serve]'.")


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def _read_token(file: Path | None) -> str | None:
    """Read the token from a file, or else from the environment.

    Raises: `AtrousError` for a file that cannot be read, and an empty token or one with blanks.
    """
    if file is None:
        token = os.environ.get(TOKEN_VARIABLE)
        source = TOKEN_VARIABLE
    else:
        source = str(file)
        try:
            token = file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise AtrousError(f"{file}: the token cannot be read ({error}). Check --token-file.") from error
    if token is not None and (not token or not token.isascii() or not token.isprintable() or " " in token):
        raise AtrousError(f"{source}: the token is empty, or not of printable ASCII characters without blanks.")
    return token
