"""The demo page in a real browser: Chromium without a window, driven by Playwright."""

import io
import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from sspsam import SSPSAMPredictor
from tests.support.images import bomb

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 60_000  # milliseconds; a computer with other work is slow
EXPRESSIONS = "the heart\nthe red square\nthe purple star"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        warnings.warn("there is no chromium: tests of the demo page in a browser are SKIPPED", stacklevel=1)
        pytest.skip("needs chromium, such as Debian's package of that name")
    from playwright.sync_api import sync_playwright

    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield chromium
        chromium.close()


class Visitor:
    """One visitor with the page open, whose requests and errors are recorded."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.hosts: set[str] = set()
        self.errors: list[str] = []
        self.context.on("request", self._note_host)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: self.errors.append(f"dialog: {dialog.message}"))
        self.page.goto(address)
        self.page.wait_for_selector("#find")

    def _note_host(self, request: Any) -> None:
        url = urlsplit(request.url)
        if url.scheme not in ("data", "blob"):
            self.hosts.add(url.netloc)

    def upload(self, name: str, content: bytes) -> None:
        """Choose a file as the image."""
        self.page.set_input_files(
            "#image input[type=file]", {"name": name, "mimeType": "image/jpeg", "buffer": content}
        )

    def find(self, expressions: str) -> None:
        """Type expressions and press the button."""
        self.page.fill("#expressions textarea", expressions)
        self.page.click("#find")

    def wait(self, selector: str) -> Any:
        """Return an element of the results as soon as it is there."""
        return self.page.wait_for_selector(f"#results {selector}", state="attached")

    def count(self, selector: str) -> int:
        """Return the number of elements of the results."""
        return len(self.page.query_selector_all(f"#results {selector}"))


@pytest.fixture
def visitor(browser: Any, address: str) -> Iterator[Visitor]:
    visitor = Visitor(browser, address, accept_downloads=True)
    yield visitor
    assert visitor.hosts == {urlsplit(address).netloc}, "the page must ask no other host"
    assert not visitor.errors
    visitor.context.close()


def test_an_image_and_expressions_give_overlays_a_no_target_answer_and_files_of_the_library(
    visitor: Visitor, predictor: SSPSAMPredictor, png: bytes
) -> None:
    visitor.upload("scene.png", png)
    visitor.wait(".demo-note")
    visitor.find(EXPRESSIONS)
    visitor.wait(".demo-absent")
    assert visitor.count("img.demo-overlay") == visitor.count(".demo-found") == 2
    assert "No target" in visitor.wait(".demo-absent").inner_text()
    assert "reused" in visitor.wait(".demo-times").inner_text()
    natural = "image => image.complete && image.naturalWidth"
    assert {image.evaluate(natural) for image in visitor.page.query_selector_all("#results img")} == {360}

    visitor.page.fill("#expressions textarea", "the pink circle below the yellow circle")
    visitor.page.get_by_text("Download", exact=True).click()
    visitor.page.click("#make-files")  # of the answers on the page, not of the text that was edited since
    link = visitor.page.wait_for_selector("#files a[download='1-the-heart.mask.png']")
    with visitor.page.expect_download() as download:
        link.click()
    mask = np.asarray(Image.open(download.value.path()))
    assert np.array_equal(mask == 255, predictor.predict("the heart", image=png).mask)
    with visitor.page.expect_download() as download:
        visitor.page.click("#files a[download='all-files.zip']")
    assert zipfile.is_zipfile(download.value.path())


def test_a_card_hides_its_mask_and_maps_are_shown_on_request(visitor: Visitor, png: bytes) -> None:
    visitor.upload("scene.png", png)
    visitor.find(EXPRESSIONS)
    visitor.wait(".demo-absent")
    assert visitor.page.is_visible("#results img.demo-overlay[data-answer='2']")
    visitor.page.uncheck("#results .demo-card[data-answer='2'] input")
    assert not visitor.page.is_visible("#results img.demo-overlay[data-answer='2']")
    assert visitor.page.is_visible("#results img.demo-overlay[data-answer='1']")
    visitor.page.get_by_text("Why this answer?").click()
    visitor.page.click("#show-maps")
    visitor.page.wait_for_selector("#maps .demo-light")


def test_what_is_no_image_is_a_friendly_error_and_the_next_image_works(visitor: Visitor, png: bytes) -> None:
    for name, content, message in (
        ("letter.jpg", b"this is a letter and no image\n" * 9, "“letter.jpg” is in no format that this page reads"),
        ("bomb.png", bomb(20_000, 20_000), "The image has 400 megapixels, and this page takes images of up to 40"),
    ):
        visitor.upload(name, content)
        visitor.page.wait_for_selector(f"#results .demo-error:has-text('{message}')")
        assert "Traceback" not in visitor.page.content()
        visitor.page.wait_for_selector("#image input[type=file]", state="attached")
    visitor.upload("scene.png", png)
    visitor.find("\n  \n")
    visitor.page.wait_for_selector("#results .demo-error:has-text('type at least one')")
    visitor.find("the heart")
    visitor.wait("img.demo-overlay")


def test_a_file_beyond_the_limit_is_refused_with_a_message(visitor: Visitor, tmp_path: Path, png: bytes) -> None:
    (tmp_path / "large.png").write_bytes(png + b"\0" * (33 << 20))
    visitor.page.set_input_files("#image input[type=file]", str(tmp_path / "large.png"))
    message = visitor.page.wait_for_selector(".toast-body, [data-testid='toast-body']").inner_text()
    assert re.search(r"size|large|limit", message, re.IGNORECASE)


def test_expressions_are_text_and_no_code(visitor: Visitor, png: bytes) -> None:
    visitor.upload("scene.png", png)
    visitor.find("<img src=x onerror=alert(1)>\n${alert(2)}\n{{value}} `${alert(3)}`\n<script>alert(4)</script>")
    visitor.wait(".demo-card[data-answer='4']")
    texts = [card.inner_text() for card in visitor.page.query_selector_all("#results .demo-text")]
    assert texts[1] == "${alert(2)}"
    assert texts[3] == "<script>alert(4)</script>"
    assert not visitor.page.query_selector_all("#results img[src='x']")


def test_a_random_scene_and_an_example_are_answered_at_once(visitor: Visitor) -> None:
    visitor.page.click("#draw")
    visitor.wait(".demo-card")
    assert visitor.page.input_value("#expressions textarea").strip()
    visitor.page.click("#examples button >> nth=0")
    # the random scene may have been asked for a purple star, too
    last_line = "document.querySelector('#expressions textarea').value.split('\\n').at(-1)"
    visitor.page.wait_for_function(f"{last_line} === 'the purple star'")
    visitor.page.wait_for_selector("#results .demo-card:has-text('the purple star')")


def test_two_visitors_do_not_see_each_others_images(
    browser: Any, visitor: Visitor, address: str, png: bytes, other_png: bytes
) -> None:
    other = Visitor(browser, address)
    visitor.upload("scene.png", png)
    other.upload("other.png", other_png)
    visitor.find("the heart")
    other.find("the heart")
    assert "360 x 270" in visitor.wait(".demo-times").inner_text()
    assert "320 x 200" in other.wait(".demo-times").inner_text()
    visitor.find("the red square")
    visitor.page.wait_for_selector("#results .demo-card:has-text('the red square')")
    assert "360 x 270" in visitor.wait(".demo-times").inner_text()
    other.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_the_page_without_scrolling_sideways(browser: Any, address: str, scheme: str) -> None:
    phone = Visitor(browser, address, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    phone.page.click("#examples button >> nth=1")
    phone.wait(".demo-card")
    phone.page.click("#find")
    phone.wait(".demo-times:has-text('encode reused')")
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390
    shot = Image.open(io.BytesIO(phone.page.screenshot())).convert("L")
    assert (np.median(np.asarray(shot)) > 128) == (scheme == "light")
    phone.context.close()


def test_the_page_leaves_nothing_in_the_current_directory(address: str, demo_folder: Path) -> None:
    assert not (demo_folder / ".gradio").exists()
    assert not (demo_folder / "gradio").exists()
