"""The socket of the server."""

import pytest

from sspsam.errors import StorageError
from sspsam.serving.server import bound_socket
from tests.support.sockets import sends_at_once


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_response_does_not_wait_for_an_acknowledgement(host: str) -> None:
    assert sends_at_once(bound_socket(host, 0))


def test_an_address_that_is_taken_is_an_error() -> None:
    with bound_socket("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(StorageError, match=f"cannot listen on 127.0.0.1, port {port}"):
            bound_socket("127.0.0.1", port)
