"""The page in a browser: the system's Chromium, a server of its own, the weights of the package.

Requests to other hosts are blocked and counted, and everything that the browser complains about fails a test.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from tests.serve.server import Server

ROOT = Path(__file__).parents[2]
WEIGHTS = "deeplab_v3_plus.efficientnet_lite0.camvid"
CHROMIUM = shutil.which("chromium")

pytest.importorskip("fastapi")
pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the server would leave temporary files."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, converted_networks: Path) -> Path:
    """The cache of server and tests, which convert the network once."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "engines").symlink_to(converted_networks, target_is_directory=True)
    return cache


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, cache: Path, temporary: Path) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATROUS_CACHE", str(cache))
        patch.setenv("TMPDIR", str(temporary))
        with Server(["-w", WEIGHTS, "--max-body-mb", "1"], tmp_path_factory.mktemp("log") / "server.log") as server:
            yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *camera])
        yield browser
        browser.close()


@dataclass
class Visit:
    """What the browser did besides showing the page."""

    elsewhere: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


OpenPage = Callable[..., AbstractContextManager[Any]]


@pytest.fixture
def open_page(browser: Any, server: Server) -> OpenPage:
    """Open the page in a new window, and at the end check that the browser complained of `expected` alone."""

    @contextmanager
    def open_page(*, expected: str = "^$", width: int = 1280, **options: Any) -> Iterator[Any]:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        context.set_default_timeout(60_000)
        visit = Visit()

        def block_others(route: Any) -> None:
            if urlsplit(route.request.url).netloc == urlsplit(server.url).netloc:
                route.continue_()
            else:
                visit.elsewhere.append(route.request.url)
                route.abort()

        context.route(re.compile("^(?!data:|blob:)"), block_others)
        page = context.new_page()
        page.on("console", lambda message: message.type == "error" and visit.complaints.append(message.text))
        page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        page.goto(f"{server.url}/page/")
        page.wait_for_selector("atrous-viewer[data-ready]")
        yield page
        context.close()
        assert visit.elsewhere == []
        assert [text for text in visit.complaints if not re.search(expected, text)] == []

    return open_page


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The street at half its size."""
    path = tmp_path_factory.mktemp("photograph") / "my street.jpg"
    Image.open(ROOT / "examples" / "street.jpg").resize((480, 360)).save(path, quality=95)
    return path


@pytest.fixture(scope="module")
def segmenter(server: Server, cache: Path) -> Any:
    from atrous import Segmenter

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATROUS_CACHE", str(cache))
        return Segmenter.load(WEIGHTS)


def upload(page: Any, file: Any) -> None:
    """Choose a file, and wait for its result."""
    page.set_input_files("atrous-viewer input[type=file]", file)
    page.wait_for_selector("atrous-viewer:not([data-busy]) figure")


def segment_again(page: Any, figures: int = 1) -> None:
    page.click("#segment")
    page.wait_for_selector("atrous-viewer:not([data-busy])")
    assert page.locator("figure").count() == figures


def download(page: Any, name: str, figure: int = 0) -> tuple[str, bytes]:
    """Download a result: its name, and its content."""
    with page.expect_download() as event:
        page.locator("figure").nth(figure).get_by_role("button", name=name, exact=True).click()
    return event.value.suggested_filename, Path(event.value.path()).read_bytes()


def api_labels(page: Any, photograph: Path, options: str = "") -> bytes:
    """The labels that the API gives."""
    response = page.request.post(f"{page.url}../v1/segment?format=png&{options}", data=photograph.read_bytes())
    assert response.ok
    return response.body()


def labels_of(content: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(content))
    assert picture.mode == "P"
    return np.asarray(picture)


def alpha(page: Any, x: int, y: int, canvas: str = "overlay", figure: int = 0) -> int:
    """The opacity of a pixel of a canvas, 0 to 255."""
    return page.evaluate(
        """([x, y, canvas, figure]) => document.querySelectorAll("figure canvas." + canvas)[figure]
           .getContext("2d").getImageData(x, y, 1, 1).data[3]""",
        [x, y, canvas, figure],
    )


def legend(page: Any) -> dict[str, str]:
    """The text of the legend: names and fractions."""
    buttons = page.locator(".legend li button")
    return dict(buttons.evaluate_all("all => all.map(each => [...each.children].map(child => child.textContent))"))


def check_accessibility(page: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe

    violations = Axe().run(page).response["violations"]
    assert [(each["id"], each["impact"], each["nodes"][0]["html"]) for each in violations] == []


def test_example_legend_pointer_and_keys(open_page: OpenPage) -> None:
    with open_page() as page:
        page.click("[data-do=example]")
        page.wait_for_selector("figure")
        entries = legend(page)
        assert list(entries)[:3] == ["road", "building", "sky"]  # the largest first
        assert sum(float(text.removesuffix(" %")) for text in entries.values()) == pytest.approx(100, abs=0.6)

        road = page.get_by_role("button", name="road")
        assert alpha(page, 480, 600) == 255
        road.focus()
        page.keyboard.press("Enter")
        assert road.get_attribute("aria-pressed") == "false"
        assert alpha(page, 480, 600) == 0
        assert alpha(page, 480, 50) == 255  # the sky is still on
        page.get_by_role("button", name="All off").click()
        assert alpha(page, 480, 50) == 0
        page.get_by_role("button", name="All on").click()
        assert alpha(page, 480, 600) == 255

        picture = page.locator(".picture")
        box = picture.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.9)
        assert re.fullmatch(r"x \d+, y \d+: road (9\d|100) %", page.inner_text(".readout"))
        picture.focus()
        for _ in range(8):
            page.keyboard.press("Shift+ArrowUp")
        assert re.fullmatch(r"x \d+, y \d+: sky (9\d|100) %", page.inner_text(".readout"))
        assert page.get_attribute(".readout", "aria-live") == "polite"

        pixel = """x => [...document.querySelector('.overlay').getContext('2d').getImageData(x, 100, 1, 1).data]"""
        assert page.evaluate(pixel, 959) == page.evaluate(pixel, 955)  # no outline where the image ends
        assert page.evaluate(pixel, 0) != page.evaluate(pixel, 959)
        page.locator("[name=opacity]").fill("25")
        assert page.evaluate("getComputedStyle(document.querySelector('.overlay')).opacity") == "0.25"
        classes = page.evaluate("document.querySelector('.overlay').toDataURL()")
        page.get_by_label("Confidence").check()
        assert page.locator(".scale").is_visible()
        assert page.evaluate("document.querySelector('.overlay').toDataURL()") != classes


def test_upload_and_downloads(open_page: OpenPage, photograph: Path, segmenter: Any, temporary: Path) -> None:
    expected = segmenter(photograph)
    with open_page() as page:
        upload(page, photograph)
        assert page.inner_text(".source .name") == "my street.jpg"
        assert re.search(r"[\d.]+ s · network [\d.]+ s", page.inner_text("figcaption"))
        name, content = download(page, "Labels")
        assert name == "my street.png"
        labels = labels_of(content)
        assert labels.shape == expected.labels.shape
        assert (labels == expected.labels).all()
        counts = zip(expected.classes, np.bincount(labels.ravel(), minlength=11), strict=True)
        assert legend(page) == {name: f"{100 * count / labels.size:.1f} %" for name, count in counts if count}
        assert api_labels(page, photograph) == content

        name, content = download(page, "Overlay")
        assert name == "my street_overlay.png"
        assert Image.open(io.BytesIO(content)).size == (480, 360)
        for kind, key in (("LabelMe", "shapes"), ("COCO", "annotations"), ("GeoJSON", "features")):
            name, content = download(page, kind)
            assert name == ("my street.geojson" if kind == "GeoJSON" else "my street.json")
            assert json.loads(content)[key]
    assert [path for path in temporary.rglob("*") if path.is_file()] == []  # nothing is left on disk


def test_compare(open_page: OpenPage, photograph: Path) -> None:
    with open_page() as page:
        upload(page, photograph)
        page.get_by_label("Compare with a second result").check()
        page.locator("#second").get_by_label("16", exact=True).check()
        segment_again(page, figures=2)
        captions = page.locator("figcaption").all_inner_texts()
        assert "output stride 16" in captions[1]
        assert all(re.search(r"[\d.]+ s · network", caption) for caption in captions)
        first, second = (labels_of(download(page, "Labels", figure)[1]) for figure in (0, 1))
        differs = first != second
        assert 0 < differs.mean() < 0.2
        assert f"{100 * differs.mean():.1f} % of the pixels differ" in page.inner_text(".readout")
        (y, x), *_ = np.argwhere(differs)
        assert alpha(page, int(x), int(y), "marks", 0) == alpha(page, int(x), int(y), "marks", 1) == 255
        same_y, same_x = np.argwhere(~differs)[0]
        assert alpha(page, int(same_x), int(same_y), "marks") == 0
        page.get_by_label("Mark differences").uncheck()
        assert alpha(page, int(x), int(y), "marks") == 0
        assert all(re.fullmatch(r"[\d.]+ % · [\d.]+ %", text) for text in legend(page).values())
        box = page.locator(".picture").first.bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.9)
        assert re.fullmatch(r"x \d+, y \d+: road \d+ % \| road \d+ %", page.inner_text(".readout"))


def test_crf_with_parameters(open_page: OpenPage, photograph: Path) -> None:
    with open_page() as page:
        weight = page.locator("#crf-first").get_by_label("number input for Weight w1 of the bilateral kernel")
        assert not weight.is_visible()
        page.get_by_label("Refine with the CRF", exact=True).check()
        preset = page.locator("#crf-first").get_by_label("Parameters of the paper")
        preset.click()
        page.get_by_role("option", name="krahenbuhl").click()
        page.wait_for_function("document.querySelector('#crf-first input[type=number]').value === '10'")
        preset.click()
        page.get_by_role("option", name="v2", exact=True).click()
        page.wait_for_function("document.querySelector('#crf-first input[type=number]').value === '4'")
        weight.fill("9")
        page.locator("#crf-first").get_by_label("number input for Mean-field iterations").fill("2")
        page.keyboard.press("Tab")
        upload(page, photograph)
        assert "CRF v2" in page.inner_text("figcaption")
        refined = download(page, "Labels")[1]
        assert refined == api_labels(page, photograph, "crf=v2&w1=9&crf_iterations=2")
        page.get_by_label("Refine with the CRF", exact=True).uncheck()
        segment_again(page)
        assert (labels_of(download(page, "Labels")[1]) != labels_of(refined)).mean() > 0.001


def bomb() -> bytes:
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""
    content = io.BytesIO()
    Image.new("L", (1, 1)).save(content, "PNG")
    header = bytearray(content.getvalue())
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    return bytes(header)


def test_bad_files(open_page: OpenPage, photograph: Path) -> None:
    content = photograph.read_bytes()
    bad = {
        "truncated.jpg": (content[: len(content) // 2], "truncated.jpg: the image is truncated"),
        "bomb.png": (bomb(), "megapixels"),
        "notes.txt": (b"not a photograph", "notes.txt: not an image"),
        "empty.jpg": (b"", "empty"),
        "large.jpg": (b"\xff" * 1_000_001, "this server takes 1.0 MB"),
    }
    # The browser itself reports answers of the server with a status of 4xx.
    with open_page(expected=r"^Failed to load resource: the server responded with a status of 4(13|22) ") as page:
        upload(page, photograph)
        alert = page.get_by_role("alert")
        for name, (content, reason) in bad.items():
            page.set_input_files("input[type=file]", {"name": name, "mimeType": "image/jpeg", "buffer": content})
            page.wait_for_selector(f"[role=alert]:has-text('{reason}')")
            assert alert.is_visible()
            assert "\n" not in alert.inner_text()
            assert page.locator("figure").count() == 1  # the last result stays
        upload(page, photograph)
        page.wait_for_selector("[role=alert]", state="hidden")


def test_paste_drop_and_camera(open_page: OpenPage, photograph: Path) -> None:
    give = """([type, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], type + ".jpg", {type: "image/jpeg"}));
        const options = {bubbles: true, cancelable: true};
        document.body.dispatchEvent(type === "paste" ? new ClipboardEvent(type, {clipboardData: data, ...options})
                                                     : new DragEvent(type, {dataTransfer: data, ...options}));
    }"""
    content = list(photograph.read_bytes())
    with open_page() as page:
        for kind in ("paste", "drop"):
            page.evaluate(give, [kind, content])
            page.wait_for_selector("atrous-viewer:not([data-busy]) figure")
            assert page.inner_text(".source .name") == f"{kind}.jpg"
        page.evaluate("""() => {
            const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            window.streams = [];
            navigator.mediaDevices.getUserMedia = async options => {
                const stream = await open(options);
                window.streams.push(stream);
                return stream;
            };
        }""")
        page.evaluate("document.querySelectorAll('[data-do=camera]').forEach(each => { each.click(); each.click(); })")
        page.wait_for_function("document.querySelector('video').videoWidth > 2")
        page.get_by_role("button", name="Take the photograph").click()
        page.wait_for_selector("atrous-viewer:not([data-busy])")
        assert page.inner_text(".source .name") == "camera.jpg"
        assert page.evaluate("document.querySelector('video').srcObject") is None  # the camera is off
        assert page.evaluate("window.streams.map(each => each.active)") == [False]


def test_progress_and_cancel(open_page: OpenPage, photograph: Path) -> None:
    with open_page(expected="ERR_CONNECTION_FAILED") as page:
        waiting: list[Any] = []
        page.route("**/viewer/segment*", lambda route: waiting.append(route))
        page.set_input_files("input[type=file]", photograph)
        page.wait_for_function("document.querySelector('.task').dataset.seconds === ' 1 s'")
        assert page.get_by_role("progressbar").is_visible()
        assert page.inner_text(".task") == "Segmenting"
        page.get_by_role("button", name="Cancel").click()
        page.wait_for_selector(".work", state="hidden")
        assert not page.get_by_role("alert").is_visible()
        page.click("#segment")
        page.wait_for_timeout(100)
        waiting[-1].abort("connectionfailed")
        page.wait_for_selector("[role=alert] >> text=The server cannot be reached")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 375)])
def test_accessible_and_wide_enough(open_page: OpenPage, photograph: Path, scheme: str, width: int) -> None:
    with open_page(width=width, color_scheme=scheme) as page:
        assert ("dark" in (page.get_attribute("body", "class") or "")) == (scheme == "dark")
        check_accessibility(page)
        page.get_by_label("Compare with a second result").check()
        page.get_by_label("Refine with the CRF (second)").check()
        upload(page, photograph)
        page.get_by_label("Confidence").check()
        check_accessibility(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for button in page.locator("atrous-viewer button:visible").all():
            box = button.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
