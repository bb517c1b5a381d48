"""The server of the page: its folder, its port, and its end."""

import importlib.util
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sspsam.demo.guard import Guard
from sspsam.demo.introduction import ModelNote
from sspsam.demo.limits import Limits
from sspsam.errors import PortError
from sspsam.predictor import SSPSAMPredictor
from sspsam.utils.installing import missing_extra

HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 7860
_CLOSING_SECONDS: Final = 3  # for open connections
_FONT: Final = ("ui-sans-serif", "system-ui", "sans-serif")  # of the visitor's system: no font is loaded
_MONOSPACE_FONT: Final = ("ui-monospace", "monospace")


@dataclass(frozen=True)
class DemoOptions:
    """Options of the demo page.

    Args:
        model: name of the model as the user gave it.
        port: on 127.0.0.1; 0: a free one.
        offers_tool: whether the page also serves the Model Context Protocol.
        limits: of images, expressions, sessions and requests.
    """

    model: str
    port: int = DEFAULT_PORT
    offers_tool: bool = False
    limits: Limits = field(default_factory=Limits)


def require_gradio(offers_tool: bool = False) -> None:
    """Check before the work that the packages of the extra are installed.

    Raises:
        MissingExtraError: they are not; the message names the extra.
    """
    for package in ("gradio", *(["mcp"] if offers_tool else [])):  # imported later, with its environment
        if importlib.util.find_spec(package) is None:
            error = ImportError(f"No module named {package!r}")
            raise missing_extra("the demo page", package, "demo", error) from error


def open_port(port: int) -> socket.socket:
    """Return a socket that listens on 127.0.0.1.

    Raises:
        PortError: the port is taken, or this user may not open it.
    """
    # with the protocol, without which asyncio would leave Nagle's algorithm on: every response would wait 40 ms
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":  # there it would allow a second program on the same port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise PortError(
            f"cannot listen on port {port} of {HOST}: {error.strerror or error}. Choose another one with --port, such "
            f"as --port {port + 1 if 1024 <= port < 65535 else DEFAULT_PORT}, or --port 0 for any free port."
        ) from error
    return listener


def serve_demo(
    predictor: SSPSAMPredictor, options: DemoOptions, listener: socket.socket, ready: Callable[[str], None]
) -> None:
    """Serve the page until the process is interrupted or terminated; then remove all files of visitors.

    Args:
        predictor: computes the answers.
        options: of the page.
        listener: from `open_port`; closed at the end.
        ready: called with the address of the page, once it can be opened.

    Raises:
        KeyboardInterrupt, SystemExit: after the end, for Ctrl-C and SIGTERM.
    """
    with (
        listener,
        _ending_cleanly() as ending,
        tempfile.TemporaryDirectory(prefix="sspsam-demo-", ignore_cleanup_errors=True) as name,
        gradio_environment(name),
    ):
        app = demo_app(predictor, options, Path(name).resolve())
        server = page_server(app)
        ready(f"http://{HOST}:{listener.getsockname()[1]}/")
        ending.serving = True
        server.run(sockets=[listener])
        ending.finish()


def page_server(app: Guard) -> Any:
    """Return the server of the page, whose clients must send the headers of a request in time.

    It ends once: after a second Ctrl-C, uvicorn would print the traceback of its own tasks.

    Args:
        app: from `demo_app`.
    """
    import uvicorn

    from sspsam.serving.connections import MAX_HEADER_BYTES, BoundedConnection

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            if not self.should_exit:
                super().handle_exit(sig, frame)

    config = uvicorn.Config(
        app,
        http=BoundedConnection,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=_CLOSING_SECONDS,
        lifespan="on",
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )
    return Server(config)


def demo_app(predictor: SSPSAMPredictor, options: DemoOptions, folder: Path) -> Guard:
    """Return the ASGI application of the page; inside `gradio_environment` of the same folder.

    Args:
        predictor: computes the answers.
        options: of the page.
        folder: for files of visitors, resolved.
    """
    import fastapi
    import gradio as gr

    from sspsam.demo.answering import Answering
    from sspsam.demo.page import PageFunctions, build_page
    from sspsam.demo.rendering import highlight_rules
    from sspsam.demo.tool import build_tool

    limits = options.limits
    note = ModelNote(options.model, predictor.origin, str(predictor.device))
    answering = Answering(predictor, limits)
    tool = build_tool(answering) if options.offers_tool else None
    page = build_page(PageFunctions(answering, folder), note)
    lifespan = None if tool is None else lambda _: tool.running()
    style = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=_FONT, font_mono=_MONOSPACE_FONT)
    app = gr.mount_gradio_app(
        fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan),
        page,
        path="/",
        server_name=HOST,
        footer_links=[],
        root_path="",
        allowed_paths=[],
        show_error=False,
        max_file_size=limits.max_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme,
        css=style + highlight_rules(limits.max_expressions),
    )
    # the other events run in the browser alone
    events = frozenset(number for number, event in page.fns.items() if event.fn is not None)
    return Guard(app, folder, limits, events, None if tool is None else tool.app)


@contextmanager
def gradio_environment(folder: str) -> Iterator[None]:
    """Replace all environment variables of Gradio: nothing is reported, checked or shared, and files go to a folder.

    For programs, which own their environment.

    Args:
        folder: for files of visitors.
    """
    own = {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_RUN_HISTORY": "False",  # as a parameter, older versions do not know it
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GRADIO_TEMP_DIR": folder,
        "GRADIO_EXAMPLES_CACHE": os.path.join(folder, "examples"),
    }
    before = {name: value for name, value in os.environ.items() if name.startswith("GRADIO_") or name in own}
    for name in before:
        del os.environ[name]
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)
        os.environ.update(before)


@dataclass
class _Ending:
    """The signal that ends the program.

    While uvicorn serves, it handles signals itself and sends them again afterwards, at a moment when an exception could
    be lost: then the signal is only noted.
    """

    serving: bool = False
    number: int | None = None

    def handle(self, number: int, frame: Any) -> None:
        """Note a signal, and end the program unless uvicorn does."""
        self.number = number
        if not self.serving:
            self.finish()

    def finish(self) -> None:
        """Raise the exception of the signal, if there was one, so that files are removed on the way out."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.number is not None:
            sys.exit(128 + self.number)


@contextmanager
def _ending_cleanly() -> Iterator[_Ending]:
    """Handle SIGINT and SIGTERM; outside of the main thread, which alone may do so, nothing changes."""
    ending = _Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    before = {number: signal.signal(number, ending.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
