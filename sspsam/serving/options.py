"""Limits and settings of the server, with their defaults."""

import math
import re
from dataclasses import dataclass, field
from typing import Final

from sspsam.errors import ConfigError
from sspsam.messages import OptionMessage, Wording, option
from sspsam.utils.paths import shown_repr

TOKEN_VARIABLE: Final = "SSPSAM_SERVE_TOKEN"  # of the environment, where the command line takes the token from
MEBIBYTE: Final = 1 << 20
_AT_LEAST_ONE: Final = (
    "max_bytes",
    "max_pixels",
    "max_expressions",
    "max_expression_characters",
    "queue_length",
    "body_memory",
    "max_images",
    "max_image_memory",
    "decoders",
)
_SECONDS: Final = ("deadline", "body_seconds", "image_expiry")
# as a browser sends it in the header Origin
_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::([1-9]\d{0,4}))?")
_USUAL_PORTS: Final = (("http", "80"), ("https", "443"))  # that a browser leaves out


@dataclass(frozen=True)
class ServeOptions:
    """Limits of requests, sizes of queues and stores, and access.

    Args:
        max_bytes: of the body of a request; checked while it arrives.
        max_pixels: largest width times height of an image, checked before decoding.
        max_expressions: of a request.
        max_expression_characters: of an expression.
        queue_length: requests that may wait for the model; further ones get 503.
        deadline: seconds that a request may wait for the model; then it gets 503 and is not computed.
        body_seconds: in which the body of a request must arrive.
        body_memory: bytes of all request bodies that are held at once; further ones get 503.
        max_images: of `POST /v1/images` that are kept; the least recently used ones are removed.
        max_image_memory: bytes of the embeddings of these images.
        image_expiry: seconds after its last use at which an image is removed.
        decoders: threads that read requests and decode images.
        micro_batch: most expressions of waiting requests about one image that are answered together; None: 2 on a CPU,
            64 elsewhere. 1: none.
        cors_origins: origins whose pages may use the server in a browser, such as `https://page.example:8443`;
            `"*"`: all.
        root_path: prefix of the paths behind a proxy that strips it, such as `/sspsam`.
        replica: prefix of the ids of images, by which a proxy finds the process that holds them.
        token: that every request must bear, except `/healthz` and `/readyz`; None: no token is needed.

    Raises:
        ConfigError: a value is out of range.
    """

    max_bytes: int = 32 * MEBIBYTE
    max_pixels: int = 50_000_000
    max_expressions: int = 32
    max_expression_characters: int = 1_000
    queue_length: int = 64
    deadline: float = 30.0
    body_seconds: float = 60.0
    body_memory: int = 256 * MEBIBYTE
    max_images: int = 64
    max_image_memory: int = 1024 * MEBIBYTE
    image_expiry: float = 900.0
    decoders: int = 2
    micro_batch: int | None = None
    cors_origins: tuple[str, ...] = ()
    root_path: str = ""
    replica: str = ""
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            _require_whole(name, getattr(self, name))
        if self.micro_batch is not None:
            _require_whole("micro_batch", self.micro_batch)
        for name in _SECONDS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise _refused(name, f"must be a number of seconds above 0, not {shown_repr(value)}")
        if self.body_memory < self.max_bytes:
            less = OptionMessage(f"= {self.body_memory:,} is less than ", option("max_bytes"), f" = {self.max_bytes:,}")
            raise _refused("body_memory", less)
        _check_origins(self.cors_origins)
        if self.root_path and (not self.root_path.startswith("/") or self.root_path.endswith("/")):
            raise _refused("root_path", f"must look like '/sspsam', not {shown_repr(self.root_path)}")
        if not all(character.isascii() and (character.isalnum() or character in "-_.") for character in self.replica):
            raise _refused("replica", f"must hold letters, digits, '-', '_' and '.', not {shown_repr(self.replica)}")
        if self.token is not None and not _is_token(self.token):
            token = Wording("the token", TOKEN_VARIABLE)
            raise ConfigError(OptionMessage(token, " must be printable ASCII without spaces, and not empty"))


def _refused(name: str, reason: str) -> ConfigError:
    """Return the error about an option."""
    return ConfigError(OptionMessage(option(name), " ", reason))


def _require_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _refused(name, f"must be a whole number, 1 or more, not {shown_repr(value)}")


def _check_origins(origins: object) -> None:
    if not isinstance(origins, tuple | list):
        raise _refused("cors_origins", f"must be a tuple of origins, not {shown_repr(origins)}")
    for origin in origins:
        if origin != "*" and not _is_origin(origin):
            raise _refused(
                "cors_origins",
                "must be '*' or look like 'https://page.example' or 'http://localhost:3000': scheme and "
                "host in small letters, the port unless it is the usual one, and no path or slash at the end; not "
                f"{shown_repr(origin)}",
            )


def _is_origin(origin: object) -> bool:
    match = _ORIGIN.fullmatch(origin) if isinstance(origin, str) else None
    return match is not None and match.groups() not in _USUAL_PORTS and int(match[2] or 0) <= 65535


def _is_token(token: str) -> bool:
    return bool(token) and token.isascii() and token.isprintable() and " " not in token
