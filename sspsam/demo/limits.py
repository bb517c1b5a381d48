"""Bounds on everything that a visitor of the page can make the program hold or compute."""

from dataclasses import dataclass
from typing import Final

_JSON_BYTES: Final = 256 << 10  # of a request of the tool, around its image


@dataclass(frozen=True)
class Limits:
    """Bounds of the demo page.

    Args:
        max_bytes: of an uploaded file.
        max_pixels: width times height of an image, found in the file's header before decoding.
        max_expressions: about an image at a time.
        max_characters: of all expressions together.
        max_sessions: open pages whose image stays encoded; beyond, the page that was used least recently is dropped and
            its image is encoded again when it is needed.
        max_session_bytes: memory of all encoded images together.
        session_seconds: time after its last use until an encoded image is dropped.
        queue_length: requests that wait for the model; further ones are refused.
        file_seconds: time after which an uploaded file and files for download are deleted.
        max_folder_bytes: of all files of visitors together; beyond, uploads are refused.
        body_seconds: longest pause of a client in the middle of a request.
    """

    max_bytes: int = 32 << 20
    max_pixels: int = 40_000_000
    max_expressions: int = 12
    max_characters: int = 4_000
    max_sessions: int = 32
    max_session_bytes: int = 1 << 30
    session_seconds: float = 3600
    queue_length: int = 32
    file_seconds: int = 3 * 3600
    max_folder_bytes: int = 2 << 30
    body_seconds: float = 30

    @property
    def max_tool_bytes(self) -> int:
        """Return the largest body of a request of the tool, which has an image in base64."""
        return self.max_bytes * 4 // 3 + _JSON_BYTES
