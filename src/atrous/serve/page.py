"""The page: Gradio's components for the settings, and a viewer of our own for photograph and result.

Gradio only draws the settings in the browser. The photograph never passes through it, but is sent by the viewer
(`viewer/*.js`) to `POST /viewer/segment`, under the same limits and the same token as the API. Of Gradio's routes only
those that read its own files are mounted: its uploads, its file server and its proxy cannot be reached.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.responses import PlainTextResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atrous.crf.presets import PRESETS as CRF_PRESETS
from atrous.inference.tta import PRESETS as TTA_PRESETS
from atrous.serve.page_routes import VIEWER_FILES, router
from atrous.telemetry import import_without_telemetry

if TYPE_CHECKING:
    from fastapi import FastAPI

    from atrous.serve.service import Service

PAGE_PATH = "/page"
VIEWER_PATH = "/viewer"

READABLE = ("/assets/", "/static/", "/theme.css")
"""What the browser loads from Gradio, besides the page itself."""

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Gradio compiles the functions of its events
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "object-src 'none'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    ]
)
"""The browser refuses requests of the page to any other server, whatever a later version of Gradio asks for."""

OUTPUT_STRIDES = (8, 16, 32)
"""The output strides that the page offers, beside the network's own; finer ones take minutes for a photograph."""

CRF_PARAMETERS = {
    "w1": ("Weight w1 of the bilateral kernel", 0, 20, 0.5),
    "sigma_alpha": ("Its width σα in pixels", 1, 200, 1),
    "sigma_beta": ("Its width σβ in color levels", 1, 50, 1),
    "crf_iterations": ("Mean-field iterations", 0, 20, 1),
}
"""Label, smallest and largest value and step of each parameter of the CRF that the page offers."""

SETTINGS = ("weights", "output_stride", "tta", "use_crf", "crf", *CRF_PARAMETERS)
"""The names of the settings of one result, as viewer.js receives them."""


def mount_page(app: FastAPI, service: Service) -> None:
    """Add the page to an app, at `/page/`, and the routes that it needs.

    Raises: `AtrousError` if Gradio is not installed.
    """
    gradio = import_without_telemetry("gradio", "serve")

    gradio.mount_gradio_app(
        app,
        _build(gradio, service),
        PAGE_PATH,
        theme=_theme(gradio),
        css_paths=[VIEWER_FILES / "viewer.css"],
        head=f'<script type="module" src="{VIEWER_PATH}/viewer.js"></script>',
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
    )
    page = app.router.routes[-1]
    page.app = ReadOnly(page.app)  # type: ignore[attr-defined]
    app.include_router(router, include_in_schema=False)
    app.mount(VIEWER_PATH, StaticFiles(directory=VIEWER_FILES))


class ReadOnly:
    """Let only reads of the page and its own files through to Gradio; everything else is not found."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if scope["method"] not in ("GET", "HEAD") or not (path in ("", "/") or path.startswith(READABLE)):
            await PlainTextResponse("Not found.", 404)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        await self.app(scope, receive, send_with_headers)


def _theme(gradio: Any) -> Any:
    """Gradio's base theme in the fonts of the system, with secondary text dark enough to read."""
    return gradio.themes.Base(
        primary_hue="indigo",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_title_text_weight="600",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_text_color="white",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
    )


def _build(gradio: Any, service: Service) -> Any:
    """Lay out viewer and settings; all events run in the browser, none calls the server through Gradio."""
    with gradio.Blocks(title="atrous", analytics_enabled=False, fill_width=True) as blocks:
        with gradio.Row():
            with gradio.Column(scale=3, min_width=320):
                gradio.HTML(_viewer_html(service))
            with gradio.Column(scale=1, min_width=300, elem_id="settings"):
                button = gradio.Button("Segment", variant="primary", elem_id="segment")
                first = _settings(gradio, service, "")
                compare = gradio.Checkbox(False, label="Compare with a second result", elem_id="compare")
                with gradio.Column(elem_id="second", elem_classes="off"):
                    second = _settings(gradio, service, " (second)")
        _toggle(compare, "second")
        button.click(
            None,
            [*first, compare, *second],
            js=f"(...values) => document.querySelector('atrous-viewer').run({json.dumps(SETTINGS)}, values)",
        )
        ready = (
            "customElements.whenDefined('atrous-viewer').then(() => document.querySelector('atrous-viewer').ready())"
        )
        blocks.load(None, js=f"() => {{ {ready}; }}")
    return blocks


def _settings(gradio: Any, service: Service, suffix: str) -> list[Any]:
    """Create the components of one result's settings, in the order of `SETTINGS`."""
    names = list(service.models)
    key = "second" if suffix else "first"
    weights = gradio.Dropdown(names, value=names[0], label=f"Weights{suffix}", filterable=False)
    possible = {stride for model in service.models.values() for stride in model.possible_output_strides}
    strides = [("own", ""), *((str(stride), str(stride)) for stride in OUTPUT_STRIDES if stride in possible)]
    output_stride = gradio.Radio(strides, value="", label=f"Output stride{suffix}", elem_classes="strides")
    views = [(_describe_tta(name), name) for name in TTA_PRESETS]
    tta = gradio.Dropdown(views, value="none", label=f"Test-time augmentation{suffix}", filterable=False)
    use_crf = gradio.Checkbox(False, label=f"Refine with the CRF{suffix}")
    with gradio.Column(elem_id=f"crf-{key}", elem_classes="off"):
        preset = gradio.Dropdown(
            list(CRF_PRESETS), value="v2", label=f"Parameters of the paper{suffix}", filterable=False
        )
        parameters = [
            gradio.Slider(low, high, value=_crf_values("v2")[name], step=step, label=label + suffix)
            for name, (label, low, high, step) in CRF_PARAMETERS.items()
        ]
    _toggle(use_crf, f"crf-{key}")
    values = {name: list(_crf_values(name).values()) for name in CRF_PRESETS}
    preset.change(None, preset, parameters, js=f"name => ({json.dumps(values)})[name]")
    return [weights, output_stride, tta, use_crf, preset, *parameters]


def _toggle(checkbox: Any, element: str) -> None:
    """Show an element only while a checkbox is on."""
    checkbox.change(
        None, checkbox, js=f"on => {{ document.getElementById('{element}').classList.toggle('off', !on); }}"
    )


def _describe_tta(name: str) -> str:
    tta = TTA_PRESETS[name]
    return f"{name} ({'windows' if tta.crop else f'{tta.num_views} views'})" if name != "none" else "none"


def _crf_values(name: str) -> dict[str, Any]:
    preset = CRF_PRESETS[name]
    assert preset.bilateral is not None  # every paper's has one
    return {
        "w1": preset.bilateral.w,
        "sigma_alpha": preset.bilateral.sigma_alpha,
        "sigma_beta": preset.bilateral.sigma_beta,
        "crf_iterations": preset.iterations,
    }


def _viewer_html(service: Service) -> str:
    html = (VIEWER_FILES / "viewer.html").read_text(encoding="utf-8")
    values = {
        "{max_bytes}": str(service.limits.body_bytes),
        "{example}": f"{VIEWER_PATH}/street.jpg",
    }
    for placeholder, value in values.items():
        html = html.replace(placeholder, value)
    return html
