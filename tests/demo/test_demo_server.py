"""The demo as a process: limits, other visitors, hostile requests, and its end."""

import asyncio
import base64
import io
import json
import re
import signal
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from sspsam import Segmentation, SSPSAMPredictor
from sspsam.demo.limits import Limits
from sspsam.shapes import Scene
from tests.support.demo_server import Page, demo_process
from tests.support.images import bomb

pytestmark = pytest.mark.slow

FILES = (
    "/gradio_api/file=",
    "/file=",
    "/gradio_api/file/",
    "/static/",
    "/assets/",
    "/svelte/",
    "/custom_component/1/a/b/",
)
NAMES = (
    "/etc/passwd",
    "//etc/passwd",
    "../../../../../../etc/passwd",
    "..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "..%252f..%252f..%252fetc%252fpasswd",
    "....//....//....//etc/passwd",
    "/proc/self/environ",
    "/dev/zero",
    "file:///etc/passwd",
    "http://127.0.0.1:1/",
    "https://localhost/etc/passwd",
    "%00/etc/passwd",
    "a" * 5000,
)


@pytest.fixture
def page(address: str) -> Page:
    return Page(address, "first")


def test_a_visitor_gets_overlays_and_a_no_target_answer_without_a_browser(page: Page, scene: Scene) -> None:
    pixels = scene.pixels.copy()
    pixels[0, 0] ^= 1  # an image that no other test has encoded
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    png = buffer.getvalue()
    view = page.results(png, "the heart\nthe red square\nthe purple star")
    assert view.count('class="demo-overlay"') == 2
    assert view.count("No target") == 1
    assert "encode <b>reused" not in view
    assert "encode <b>reused" in page.results(png, "the heart")


def test_two_visitors_at_once_see_their_own_images_only(address: str, png: bytes, other_png: bytes) -> None:
    sizes = {"first": (png, "360 x 270"), "second": (other_png, "320 x 200")}
    wrong: list[str] = []

    def visit(name: str) -> None:
        image, size = sizes[name]
        visitor = Page(address, name)
        for _ in range(4):
            view = visitor.results(image, "the heart\nthe square")
            if re.findall(r"\d+ x \d+ pixels", view) != [f"{size} pixels"]:
                wrong.append(view)

    visitors = [threading.Thread(target=visit, args=(name,)) for name in sizes]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert not wrong


def test_a_file_that_is_no_image_is_a_message_on_the_page(page: Page) -> None:
    view = page.results(b"this is a text\n" * 20, "the heart", name="photo.jpg")
    assert "That did not work" in view
    assert "“photo.jpg” is in no format that this page reads" in view
    assert "Traceback" not in view
    assert "40 megapixels" in page.results(bomb(20_000, 20_000), "the heart")
    assert "type at least one" in page.results(b"GIF89a", "\n")


@pytest.mark.parametrize("route", FILES)
def test_no_file_of_the_computer_is_read(page: Page, route: str) -> None:
    for name in NAMES:
        status, content = page.get(route + name)
        assert status in (400, 403, 404), (route, name, status)
        assert b"root:" not in content
        assert b"PATH=" not in content


def test_events_with_paths_and_urls_are_refused(page: Page) -> None:
    for path in (
        "/etc/passwd",
        "http://127.0.0.1:1/a.png",
        "https://example.com/a.png",
        "file:///etc/passwd",
        "..",
        "",
    ):
        for file in ({"path": path}, {"path": path, "url": path, "meta": {"_type": "gradio.FileData"}}):
            status, content = page.event("find", [file, "the heart"])
            assert status == 400, content
            assert b"must be uploaded" in content


def test_malformed_events_are_refused_and_the_page_stays_up(page: Page, png: bytes) -> None:
    number = len(page.config["dependencies"])
    for body in (
        {"data": [], "fn_index": number + 7, "session_hash": "a"},
        {"data": [], "fn_index": -1, "session_hash": "a"},
        {"data": [[[[]]]] * 50, "fn_index": 0, "session_hash": "a"},
        {"data": ["x"], "fn_index": 0, "session_hash": "a", "event_data": "b", "trigger_id": "c"},
        {"data": {}, "fn_index": 0, "session_hash": "a"},
        [],
    ):
        status, _ = page.post("/gradio_api/queue/join", body)
        assert status < 500, body
    for value in (1, "text", [], {"a": 1}, True, ["x"] * 100):
        outcome = page.outcome("find", [value, value])
        assert "Traceback" not in json.dumps(outcome)
    assert "demo-overlay" in page.results(png, "the heart")


def test_uploads_beyond_the_limit_are_refused_without_a_trace(page: Page, demo_folder: Path) -> None:
    before = sum(path.stat().st_size for path in demo_folder.rglob("*") if path.is_file())
    size = str(Limits().max_bytes + (1 << 20))
    status, content = page.request(
        "POST", "/gradio_api/upload", Content_Type="multipart/form-data; boundary=x", Content_Length=size
    )
    assert status == 413
    assert b"limit" in content
    assert page.request("POST", "/gradio_api/upload", b"x", Content_Type="text/plain")[0] == 400
    after = sum(path.stat().st_size for path in demo_folder.rglob("*") if path.is_file())
    assert after - before < 1 << 20


@pytest.mark.parametrize(
    ("path", "kind"), [("/mcp", "application/json"), ("/gradio_api/upload", "multipart/form-data; boundary=x")]
)
@pytest.mark.parametrize("is_chunked", [True, False])
def test_a_client_that_sends_far_too_much_reads_the_message(
    address: str, path: str, kind: str, is_chunked: bool
) -> None:
    data = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + bytes(48 << 20)
    content = (data[i : i + (1 << 20)] for i in range(0, len(data), 1 << 20)) if is_chunked else data
    with httpx.Client(base_url=address, trust_env=False, timeout=60) as client:
        response = client.post(path, content=content, headers={"Content-Type": kind, "Accept": "application/json"})
    assert response.status_code == 413
    # an upload in chunks may reach Gradio's limit of a file before the limit of a body is noticed
    of_gradio = is_chunked and "upload" in path and "exceeded maximum allowed size" in response.text
    assert of_gradio or "larger than the limit of" in response.json()["detail"]


def test_the_name_of_an_upload_leaves_the_folder_in_no_form(page: Page, demo_folder: Path, png: bytes) -> None:
    for name in ("../../../../evil.png", "..\\..\\evil.png", "/tmp/evil.png", "%2e%2e%2fevil.png", ".", ".."):
        status, content = page.upload(name, png)
        assert status in (200, 400)
        if status == 200:
            path = Path(json.loads(content)[0]).resolve()
            assert any(parent.name.startswith("sspsam-demo-") for parent in path.parents)
    assert not [path for path in demo_folder.glob("*") if "evil" in path.name]


def test_ctrl_c_leaves_no_file_and_no_traceback(tmp_path: Path, png: bytes) -> None:
    with demo_process(tmp_path, "-v") as (address, process):
        assert "demo-overlay" in Page(address, "a").results(png, "the heart")
        assert list(tmp_path.glob("sspsam-demo-*"))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert not [path.name for path in tmp_path.iterdir() if "gradio" in path.name or "sspsam" in path.name]
    messages = (tmp_path / "stderr.txt").read_text()
    assert "Traceback" not in messages
    assert all(line.startswith("sspsam: ") for line in messages.splitlines())


def test_the_tool_answers_like_the_page_with_the_same_limits(
    address: str, predictor: SSPSAMPredictor, png: bytes
) -> None:
    image = base64.b64encode(png).decode()
    text, drawing = call_tool(address, {"image_base64": image, "texts": ["the heart", "the purple star"]})
    heart, star = json.loads(text)
    assert np.array_equal(Segmentation.from_dict(heart).mask, predictor.predict("the heart", image=png).mask)
    assert star["no_target"]
    assert Image.open(io.BytesIO(base64.b64decode(drawing))).size == (360, 270)
    large = image.ljust(Limits().max_bytes * 4 // 3)  # as long as a file of the largest size
    assert json.loads(call_tool(address, {"image_base64": large, "texts": ["the heart"]})[0]) == [heart]
    for bad in ("/etc/passwd!", "http://127.0.0.1:1/a.png", "file:///etc/passwd"):
        assert "paths and URLs are not opened" in call_tool(address, {"image_base64": bad, "texts": ["a"]})[0]
    assert (
        "megapixels"
        in call_tool(address, {"image_base64": base64.b64encode(bomb(9_000, 9_000)).decode(), "texts": ["a"]})[0]
    )
    assert Page(address, "a").request("POST", "/mcp", b"{}", Origin="http://evil.example")[0] == 403


def call_tool(address: str, arguments: dict[str, object]) -> list[str]:
    """Call the tool `segment` with the client of the `mcp` package; return the texts and images of its answer."""
    from mcp import ClientSession
    from mcp.client import streamable_http

    # newer versions warn about the older name
    connect = getattr(streamable_http, "streamable_http_client", streamable_http.streamablehttp_client)

    async def call() -> list[str]:
        async with (
            connect(f"{address}mcp") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            assert [tool.name for tool in tools] == ["segment"]
            answer = await session.call_tool("segment", arguments)
            return [part.text if part.type == "text" else part.data for part in answer.content]

    return asyncio.run(call())
