"""The gate in front of the page, with a small application behind it that records what reaches it."""

import json
from pathlib import Path
from typing import Any

import pytest

from sspsam.demo.guard import Guard, Receive, Scope, Send, checked_event
from sspsam.demo.limits import Limits
from sspsam.errors import RefusalError
from sspsam.serving import body_watch
from tests.support.asgi import ASGIClient

API = "/gradio_api"


class Application:
    """Reads the whole body and answers 200."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.body = b""
        self.left = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope["path"])
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left = True
                return
            self.body += message.get("body", b"")
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"ok"})


class Client(ASGIClient):
    """Sends requests through a gate."""

    def __init__(self, folder: Path, limits: Limits | None = None, *, offers_tool: bool = False) -> None:
        self.behind = Application()
        self.tool = Application()
        tool = self.tool if offers_tool else None
        self.guard = Guard(self.behind, folder.resolve(), limits or Limits(), range(5), tool)
        super().__init__(self.guard)


@pytest.fixture
def client(tmp_path: Path) -> Client:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.png").write_bytes(b"image")
    (tmp_path / "secret").write_text("secret")
    return Client(tmp_path / "files")


def test_the_requests_of_the_page_pass_with_headers_that_keep_the_browser_at_home(client: Client) -> None:
    for path in ("/", "/config", "/assets/index.js", "/static/fonts/a.woff2", f"{API}/heartbeat/abc"):
        assert client("GET", path) == 200
        assert b"default-src 'self'" in client.headers[b"content-security-policy"]
        assert client.headers[b"x-content-type-options"] == b"nosniff"
    assert client("POST", f"{API}/upload", b"content") == 200
    assert client.behind.body == b"content"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{API}/proxy=http://127.0.0.1:1/"),
        ("GET", f"{API}/info"),
        ("GET", f"{API}/openapi.json"),
        ("GET", f"{API}/deep_link"),
        ("GET", f"{API}/vibe-code"),
        ("POST", f"{API}/vibe-code"),
        ("POST", f"{API}/vibe-edit"),
        ("POST", f"{API}/process_recording"),
        ("POST", f"{API}/run/predict"),
        ("POST", f"{API}/call/find"),
        ("POST", f"{API}/component_server"),
        ("GET", f"{API}/stream/a/b/1/playlist.m3u8"),
        ("GET", "/monitoring"),
        ("GET", f"{API}/runs"),
        ("GET", "/mcp"),
        ("POST", "/mcp"),
        ("POST", f"{API}/mcp/"),
        ("GET", "/static/../../setup.cfg"),
        ("GET", "/assets/.hidden"),
        ("GET", "/static//etc/passwd"),
        ("GET", "/static/a\0"),
        ("DELETE", "/"),
        ("POST", "/"),
        ("GET", "/docs"),
        ("GET", f"{API}/upload"),
    ],
)
def test_routes_that_the_page_does_not_use_are_not_there(client: Client, method: str, path: str) -> None:
    assert client(method, path) == 404
    assert not client.behind.paths


def test_the_tool_is_there_where_it_is_offered(tmp_path: Path) -> None:
    client = Client(tmp_path, offers_tool=True)
    assert client("POST", "/mcp", b"{}") == 200
    assert client.tool.body == b"{}"
    assert client("POST", "/mcp/", b"{}") == 404
    assert client("POST", "/mcp", b"{}", host="evil.example") == 403
    assert not client.behind.paths


def test_files_of_the_page_are_served_and_no_others(client: Client) -> None:
    folder = client.guard.folder
    assert client("GET", f"{API}/file={folder}/a.png") == 200
    for path in (f"{folder}/../secret", "/etc/passwd", "../secret", "..", f"{folder}", "http://127.0.0.1/", "C:\\a"):
        assert client("GET", f"{API}/file={path}") == 403
    assert client.behind.paths == [f"{API}/file={folder}/a.png"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:7860", "", "[::2]", "["])
def test_other_hosts_are_refused_so_that_rebinding_a_name_to_this_computer_is_in_vain(
    client: Client, host: str
) -> None:
    assert client("GET", "/", host=host) == 403
    assert not client.behind.paths


def test_pages_of_other_hosts_cannot_send_requests(client: Client) -> None:
    assert client("POST", f"{API}/upload", b"a", origin="https://evil.example") == 403
    assert client("POST", f"{API}/upload", b"a", origin="null") == 403
    assert client("POST", f"{API}/upload", b"a", origin="http://localhost:7860") == 200
    assert client("GET", "/", host="localhost:7860") == 200


@pytest.fixture
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_watch, "_LINGER_SECONDS", 0.05)


@pytest.mark.usefixtures("short_linger")
def test_a_body_that_announces_too_many_bytes_is_refused_before_it_arrives(tmp_path: Path) -> None:
    client = Client(tmp_path, Limits(max_bytes=1000))
    assert client("POST", f"{API}/upload", stalls=True, content_length=str(10**9)) == 413
    assert client("POST", f"{API}/upload", stalls=True, content_length="many") == 413
    assert client("POST", f"{API}/queue/join", stalls=True, content_length=str(10**6)) == 413
    assert not client.behind.paths


def test_a_body_that_grows_beyond_the_limit_is_refused_while_it_arrives(tmp_path: Path) -> None:
    client = Client(tmp_path, Limits(max_bytes=1000))
    assert client("POST", f"{API}/upload", *[b"x" * 40_000] * 3) == 413
    assert client.behind.left


@pytest.mark.parametrize("path", [f"{API}/upload", "/mcp", f"{API}/queue/join", "/nothing"])
@pytest.mark.parametrize("headers", [{"transfer_encoding": "chunked"}, {"content_length": "4000000"}])
def test_a_refused_client_may_finish_sending_so_that_it_sees_the_message(
    tmp_path: Path, path: str, headers: dict[str, str]
) -> None:
    client = Client(tmp_path, Limits(max_bytes=1000), offers_tool=True)
    assert client("POST", path, *[b"x" * 40_000] * 100, **headers) in (404, 413)
    assert client.unread == 0
    assert client.headers[b"connection"] == b"close"


def test_an_application_that_answers_without_reading_the_body_is_heard(tmp_path: Path) -> None:
    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    client = ASGIClient(Guard(refusing, tmp_path, Limits()))
    assert client("POST", f"{API}/upload", b"a", b"b", content_length="2") == 400
    assert client.unread == 0


def test_a_body_that_does_not_arrive_is_given_up(tmp_path: Path) -> None:
    client = Client(tmp_path, Limits(body_seconds=0.05))
    assert client("POST", f"{API}/upload", stalls=True) == 408
    assert client("POST", f"{API}/queue/join", stalls=True) == 408


def test_web_sockets_are_refused(client: Client) -> None:
    assert client("GET", "/", kind="websocket") == 404


def event(**changes: Any) -> dict[str, Any]:
    return {"data": ["the heart"], "fn_index": 1, "trigger_id": 4, "session_hash": "abc123", **changes}


def test_an_event_reaches_the_application_with_its_file_and_without_any_url(client: Client) -> None:
    file = {
        "path": str(client.guard.folder / "a.png"),
        "url": "http://metadata.example/latest",
        "orig_name": "a.png",
        "meta": {"_type": "gradio.FileData"},
        "is_stream": True,
    }
    content = json.dumps(event(data=[file, "the heart"], simple_format=True, extra=1)).encode()
    assert client("POST", f"{API}/queue/join", content[:20], content[20:], content_length=str(len(content))) == 200
    received = json.loads(client.behind.body)
    assert "metadata.example" not in client.behind.body.decode()
    assert received["data"][0]["path"] == file["path"]
    assert set(received) == {"data", "fn_index", "trigger_id", "session_hash"}


@pytest.mark.parametrize(
    "file",
    [
        {"path": "/etc/passwd"},
        {"path": "http://127.0.0.1:9/a.png", "meta": {"_type": "gradio.FileData"}},
        {"url": "http://127.0.0.1:9/a.png"},
        {"url": "data:image/png;base64,AAAA", "path": ""},
        {"path": "../secret"},
        {"path": None},
        {"path": 1},
    ],
)
@pytest.mark.parametrize("depth", [0, 3])
def test_an_event_with_a_path_or_a_url_of_the_visitor_is_refused(client: Client, file: Any, depth: int) -> None:
    for _ in range(depth):
        file = [{"value": file}]
    assert client("POST", f"{API}/queue/join", json.dumps(event(data=[file])).encode()) == 400
    assert not client.behind.paths


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"[" * 100_000,
        json.dumps(event(data="a")).encode(),
        json.dumps(event(fn_index="1")).encode(),
        json.dumps(event(fn_index=True)).encode(),
        json.dumps(event(fn_index=5)).encode(),
        json.dumps(event(fn_index=-1)).encode(),
        json.dumps(event(session_hash=None)).encode(),
        json.dumps(event(session_hash="../..")).encode(),
        json.dumps(event(session_hash="a" * 65)).encode(),
    ],
)
def test_what_is_no_event_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(RefusalError) as caught:
        checked_event(content, tmp_path, range(5))
    assert caught.value.status == 400


def test_uploads_are_refused_while_the_folder_is_full(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\0" * 100)
    client = Client(tmp_path, Limits(max_folder_bytes=99))
    assert client("POST", f"{API}/upload", b"x") == 503
    assert not client.behind.paths
    assert Client(tmp_path, Limits(max_folder_bytes=100))("POST", f"{API}/upload", b"x") == 200
