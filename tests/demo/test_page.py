"""The page as Gradio serves it: its functions, its settings, and nothing from other hosts."""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sspsam import SSPSAMPredictor
from sspsam.demo.answering import Answering
from sspsam.demo.guard import Guard
from sspsam.demo.server import DemoOptions, demo_app, gradio_environment
from tests.support.asgi import ASGIClient

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
    from sspsam.demo.limits import Limits
    from sspsam.demo.page import PageFunctions

    functions = PageFunctions(Answering(predictor, Limits()), app.folder)
    visitor = SimpleNamespace(session_hash="a")
    path, lines = functions.example(0)
    file = {"path": path}
    image, results, *_ = functions.prepare(file, visitor)
    assert "The image is encoded" in results
    results, choice, *_ = functions.find(file, lines, visitor)
    assert results.count("demo-overlay") == 4
    assert choice["choices"] == lines.splitlines()
    assert "demo-maps" in functions.explain(file, "the heart", visitor)
    files, message = functions.files(file, "the heart", visitor)
    assert Path(files["value"][0]).name == "1-the-heart.mask.png"
    assert message == ""
    functions.leave(visitor)
    assert len(functions.answering.sessions) == 0
    assert functions.scene()[1]

    assert "no longer on the server" in functions.find({"path": "/etc/passwd"}, "a", visitor)[0]
    (app.folder / "text.jpg").write_text("no image")
    image, results, *_ = functions.prepare({"path": str(app.folder / "text.jpg"), "orig_name": "my.jpg"}, visitor)
    assert image is None
    assert "“my.jpg” is not an image" in results
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


def test_a_defect_is_a_message_without_a_traceback(
    app: Guard, predictor: SSPSAMPredictor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from sspsam.demo.limits import Limits
    from sspsam.demo.page import PageFunctions

    functions = PageFunctions(Answering(predictor, Limits()), app.folder)
    monkeypatch.setattr(Answering, "answer", lambda *_: 1 / 0)
    view = functions.find({"path": functions.example(0)[0]}, "a", SimpleNamespace(session_hash="a"))[0]
    assert "ZeroDivision" not in view
    assert "The terminal in which it runs shows the cause" in view
    assert "ZeroDivisionError" in caplog.text
