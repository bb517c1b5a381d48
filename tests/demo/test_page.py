"""The page as Gradio serves it: its functions, its settings, and nothing from other hosts."""

import html
import io
import json
import re
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from sspsam import SSPSAMPredictor
from sspsam.demo.answering import Answering
from sspsam.demo.guard import Guard
from sspsam.demo.limits import Limits
from sspsam.demo.server import DemoOptions, demo_app, gradio_environment, open_port, page_server
from sspsam.serving import connections
from tests.support.asgi import ASGIClient
from tests.support.images import bomb
from tests.support.names import HOSTILE

EVENTS = ("prepare", "find", "scene", "example", "explain", "files", "leave")


@pytest.fixture(scope="module")
def app(predictor: SSPSAMPredictor) -> Iterator[Guard]:
    pytest.importorskip("gradio", reason="needs the extra [demo]")
    with tempfile.TemporaryDirectory() as folder, gradio_environment(folder):
        yield demo_app(predictor, DemoOptions("shapes", offers_tool=True), Path(folder).resolve())


def test_the_page_asks_nothing_of_other_hosts(app: Guard) -> None:
    client = ASGIClient(app)
    assert client("GET", "/") == 200
    page = re.sub(rb"<meta\s[^>]*>", b"", client.content)  # its metadata is for links in social networks
    assert not re.search(rb'(?:src|href)="(?:https?:)?//(?!127\.0\.0\.1:7860/)', page)
    assert client("GET", "/config") == 200
    config = json.loads(client.content)
    assert config["analytics_enabled"] is False
    assert config["stylesheets"] == []
    assert "fonts.g" not in json.dumps(config)
    assert client("GET", "/theme.css") == 200
    assert not re.search(rb"@import|url\(.?(?:https?:)?//", client.content)
    assert client("GET", "/gradio_api/info") == 404


def test_the_functions_of_the_page_are_its_only_events_and_none_is_public(app: Guard) -> None:
    client = ASGIClient(app)
    client("GET", "/config")
    dependencies = json.loads(client.content)["dependencies"]
    assert {fn["api_name"] for fn in dependencies if fn["backend_fn"]} == {*EVENTS, "find_1", "find_2"}
    assert {fn["api_visibility"] for fn in dependencies} == {"private"}


def test_the_functions_work_without_a_browser(app: Guard, predictor: SSPSAMPredictor) -> None:
    from sspsam.demo.page import PageFunctions

    functions = PageFunctions(Answering(predictor, Limits()), app.folder)
    visitor = SimpleNamespace(session_hash="a")
    path, lines = functions.example(0)
    file = {"path": path}
    image, results, *_ = functions.prepare(file, visitor)
    assert "The image is encoded" in results
    assert "Browsers cannot show" not in results
    assert "press Find" in functions.files(file, "", visitor)[1]
    results, choice, _, _, shown = functions.find(file, lines, visitor)
    assert results.count("demo-overlay") == 4
    assert choice["choices"] == lines.splitlines()
    assert "demo-maps" in functions.explain(file, "the heart", visitor)
    assert "about another image" in functions.files({"path": functions.example(1)[0]}, shown, visitor)[1]
    files, message = functions.files(file, shown, visitor)
    assert Path(files["value"][0]).name == "1-the-heart.mask.png"
    coco = json.loads(next(Path(name) for name in files["value"] if name.endswith(".coco.json")).read_text())
    assert len(coco["annotations"]) == 4
    assert message == ""
    functions.leave(visitor)
    assert len(functions.answering.sessions) == 0
    assert functions.scene()[1]

    assert "no longer on the server" in functions.find({"path": "/etc/passwd"}, "a", visitor)[0]
    (app.folder / "text.jpg").write_text("no image")
    image, results, *_ = functions.prepare({"path": str(app.folder / "text.jpg"), "orig_name": "my.jpg"}, visitor)
    assert image is None
    assert "“my.jpg” is in no format that this page reads" in results
    assert "Nothing here yet" in functions.prepare(None, visitor)[1]


def test_an_example_that_another_visitor_reads_is_replaced_as_a_whole(app: Guard, answering: Answering) -> None:
    from sspsam.demo.page import PageFunctions

    functions = PageFunctions(answering, app.folder)
    path = Path(functions.example(0)[0])
    in_use = app.folder / "in-use.png"
    in_use.hardlink_to(path)  # as an open file, it keeps the content that a write into the file would empty
    functions.example(0)
    assert path.read_bytes() == in_use.read_bytes()
    assert not path.samefile(in_use)
    assert not list(app.folder.glob(".sspsam-*"))


def test_the_page_says_that_a_browser_cannot_show_a_tiff(app: Guard, answering: Answering, png: bytes) -> None:
    from sspsam.demo.page import PageFunctions

    functions = PageFunctions(answering, app.folder)
    visitor = SimpleNamespace(session_hash="a")
    path = app.folder / "a.tiff"
    Image.open(io.BytesIO(png)).save(path)
    for view in (
        functions.prepare({"path": str(path)}, visitor)[1],
        functions.find({"path": str(path)}, "a", visitor)[0],
    ):
        assert "Browsers cannot show files of this kind" in view


def test_a_silent_client_and_one_with_half_a_header_are_disconnected(
    app: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.2)
    server = page_server(app)
    with open_port(0) as listener:
        address = listener.getsockname()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        for sent in (b"", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"POST /gradio_api/up"):
            with socket.create_connection(address, timeout=20) as connection:
                connection.sendall(sent)
                assert connection.recv(100) == b""
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(b"GET /robots.txt HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()


def test_a_defect_is_a_message_without_a_traceback(
    app: Guard, predictor: SSPSAMPredictor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from sspsam.demo.page import PageFunctions

    functions = PageFunctions(Answering(predictor, Limits()), app.folder)
    monkeypatch.setattr(Answering, "answer", lambda *_: 1 / 0)
    view = functions.find({"path": functions.example(0)[0]}, "a", SimpleNamespace(session_hash="a"))[0]
    assert "ZeroDivision" not in view
    assert "The terminal in which it runs shows the cause" in view
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_files_that_look_like_messages_are_shown_as_they_are(
    name: str, app: Guard, predictor: SSPSAMPredictor
) -> None:
    from sspsam.demo.page import PageFunctions

    functions = PageFunctions(Answering(predictor, Limits(max_pixels=2_000_000)), app.folder)
    visitor = SimpleNamespace(session_hash="a")
    large = io.BytesIO()
    Image.new("1", (2000, 1500)).save(large, "PNG")
    for content, message in (
        (b"no image", f"“{name}” is in no format that this page reads"),
        (b"", "The file is empty."),
        (
            large.getvalue(),
            "The image has 3 megapixels, and this page takes images of up to 2 megapixels.",
        ),
        (bomb(40_000, 30_000), "The image has 1200 megapixels, and this page"),
    ):
        (app.folder / "upload.png").write_bytes(content)
        payload = {"path": str(app.folder / "upload.png"), "orig_name": name}
        for view in (functions.prepare(payload, visitor)[1], functions.explain(payload, name, visitor)):
            assert message in html.unescape(view)


def test_events_that_run_in_the_browser_alone_are_refused(app: Guard) -> None:
    client = ASGIClient(app)
    assert client("GET", "/config") == 200
    events = {event["id"]: event["backend_fn"] for event in json.loads(client.content)["dependencies"]}
    assert set(app.events) == {number for number, has_function in events.items() if has_function}
    assert set(app.events) < set(events)
