"""`sspsam serve`: the predictor behind HTTP."""

import ipaddress
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

import click

from sspsam.cli.loading import load_predictor, pretrained_options
from sspsam.cli.options import ModelOptions, dtype_option, model_options, option_group, required_model
from sspsam.cli.output import INTERRUPTED, complain, failing_cleanly
from sspsam.cli.paths import FiniteRange, WholeRange
from sspsam.cli.verbosity import detail, inform, is_quiet, is_verbose
from sspsam.messages import flag
from sspsam.serving.options import TOKEN_VARIABLE, ServeOptions

if TYPE_CHECKING:
    from sspsam.predictor import SSPSAMPredictor

_BUNDLED: Final = "shapes"


@dataclass(frozen=True)
class LimitOptions:
    """Values of the options that are fields of `ServeOptions`."""

    max_bytes: int
    max_pixels: int
    max_expressions: int
    max_expression_characters: int
    queue_length: int
    deadline: float
    body_seconds: float
    body_memory: int
    max_images: int
    max_image_memory: int
    image_expiry: float
    decoders: int
    micro_batch: int | None
    cors_origins: tuple[str, ...]
    root_path: str
    replica: str


_HELP: Final = {
    "max_bytes": "Largest body of a request.",
    "max_pixels": "Largest width times height of an image.",
    "max_expressions": "Most expressions of a request.",
    "max_expression_characters": "Longest expression.",
    "queue_length": "Requests that may wait for the model; others get 503.",
    "deadline": "Seconds that a request may wait for the model; then it gets 503 and is not computed.",
    "body_seconds": "Seconds in which the body of a request must arrive.",
    "body_memory": "Bytes of all request bodies that are held at once; others get 503.",
    "max_images": "Images of /v1/images that are kept.",
    "max_image_memory": "Bytes of their embeddings.",
    "image_expiry": "Seconds after its last use at which an image is removed.",
    "decoders": "Threads that read requests and decode images.",
    "micro_batch": "Most expressions about one image answered together [default: 2 on a CPU, else 64].",
    "cors_origins": 'Origin whose pages may use the server in a browser, or "*"; repeatable.',
    "root_path": "Prefix of the paths behind a proxy that strips it, such as /sspsam.",
    "replica": "Prefix of the ids of images, by which a proxy finds this process.",
}


def _limit_option(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option for a field of `ServeOptions`, with the field's default."""
    default = getattr(ServeOptions, name)
    if name == "cors_origins":
        return click.option(flag(name), name, multiple=True, metavar="ORIGIN", help=_HELP[name])
    if isinstance(default, str):
        return click.option(flag(name), name, default=default, metavar="TEXT", help=_HELP[name])
    kind = FiniteRange(min=0, min_open=True) if isinstance(default, float) else WholeRange(min=1)
    return click.option(
        flag(name), name, type=kind, default=default, show_default=default is not None, help=_HELP[name]
    )


limit_options = option_group("limits", LimitOptions, *(_limit_option(field.name) for field in fields(LimitOptions)))


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0: all.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free port.")
@model_options
@dtype_option
@click.option("--compile", is_flag=True, help="Compile SAM's image encoder before the first request, for GPUs.")
@limit_options
@click.option(
    "--drain-seconds",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Seconds after SIGTERM for which requests are still accepted while /readyz says no.",
)
@click.option(
    "--stop-seconds",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    help="Seconds after which requests that are still being answered at the end are given up.",
)
def serve(
    host: str,
    port: int,
    model_options: ModelOptions,
    dtype: str | None,
    compile: bool,
    limits: LimitOptions,
    drain_seconds: float,
    stop_seconds: float,
) -> None:
    """Answer questions over HTTP; /docs describes the requests.

    Without --model, the bundled model for drawn shapes is used. With the environment variable SSPSAM_SERVE_TOKEN, every
    request must bear that token. SIGTERM and Ctrl-C stop the server after it has answered what it has accepted.
    """
    name = _BUNDLED if model_options.model is None else required_model(model_options)
    with failing_cleanly():
        options = ServeOptions(**vars(limits), token=os.environ.get(TOKEN_VARIABLE))
        stopped_by = _run((host, port), model_options, name, dtype, compile, options, drain_seconds, stop_seconds)
    if stopped_by == signal.SIGINT:
        sys.exit(INTERRUPTED)


def _run(
    address: tuple[str, int],
    source: ModelOptions,
    name: str,
    dtype: str | None,
    compile: bool,
    options: ServeOptions,
    drain_seconds: float,
    stop_seconds: float,
) -> int | None:
    """Run the server, and return the signal that ended it."""
    from sspsam import hub

    hub.check_name(name)  # an unknown name is answered before PyTorch is imported
    _require_extra()
    from sspsam.images.loading import pillow_pixel_limit
    from sspsam.serving.app import create_app
    from sspsam.serving.server import Stopping, bound_socket, run_server

    listener = bound_socket(*address)
    _log_errors()
    report = complain if is_verbose() else _silent  # click knows the verbosity in this thread only

    def load() -> "SSPSAMPredictor":
        pretrained = pretrained_options(source, dtype=dtype)
        return load_predictor(name, source.device, {**pretrained, "compile": compile}, report)

    _announce(listener.getsockname(), name, source.model is None, options.token)
    app = create_app(load, options, log=_silent if is_quiet() else complain)
    with pillow_pixel_limit(options.max_pixels):
        stopped_by = run_server(app, listener, Stopping(drain_seconds, stop_seconds))
    if app.service.given_up:
        complain(f"stopped; {app.service.given_up} requests were not answered within --stop-seconds {stop_seconds:g}")
    else:
        inform("stopped; all accepted requests were answered")
    return stopped_by


def _announce(address: tuple[str, int], name: str, is_default: bool, token: str | None) -> None:
    host, port = address[:2]
    shown_host = f"[{host}]" if ":" in host else host
    inform(f"serving {name} at http://{shown_host}:{port} (description: /docs)")
    if is_default:
        inform("no --model was given: the bundled model knows drawn shapes only, no photographs")
    if token is None and not ipaddress.ip_address(host).is_loopback:
        inform(f"anyone who reaches {shown_host} may use this server: set {TOKEN_VARIABLE} to demand a token")
    detail("a request is one line: client, method, path, status, bytes, time")


def _require_extra() -> None:
    """Refuse to start without the packages of the extra.

    Raises:
        MissingExtraError: a package is not installed.
    """
    from sspsam.utils.installing import missing_extra

    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise missing_extra("the server", error.name or "a package", "serve", error) from error


class _Complaints(logging.Handler):
    """Prints log records, tracebacks included, as lines of the command."""

    def emit(self, record: logging.LogRecord) -> None:
        for line in self.format(record).splitlines():
            complain(line)


def _log_errors() -> None:
    """Print warnings and errors of the server and of uvicorn on standard error; only a command configures logging."""
    for name in ("sspsam.serving", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [_Complaints(logging.WARNING)]
        logger.propagate = False
    logging.getLogger("python_multipart").addHandler(logging.NullHandler())  # clients get what it says


def _silent(line: str) -> None:
    """Drop a line of the access log."""
