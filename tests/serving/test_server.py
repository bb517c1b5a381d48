"""The socket of the server, and the end of listening."""

import socket
import sys
import threading

import pytest

from sspsam import SSPSAMPredictor
from sspsam.errors import PortError
from sspsam.serving import server as server_module
from sspsam.serving.server import bound_socket
from sspsam.serving.syn_filter import refuse_new_connections
from tests.support.serving import RunningServer, one_response, received, running
from tests.support.sockets import sends_at_once

REQUEST = b"GET /v1/model HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_response_does_not_wait_for_an_acknowledgement(host: str) -> None:
    assert sends_at_once(bound_socket(host, 0))


def test_an_address_that_is_taken_is_an_error() -> None:
    with bound_socket("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortError, match=f"cannot listen on 127.0.0.1, port {port}: .*--port"):
            bound_socket("127.0.0.1", port)


class LateClients:
    """Clients that send a request just before the server closes its port, unseen by its event loop until then.

    Args:
        server: in which the clients have connections.
    """

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.kept_alive, self.silent = server.connect(), server.connect()
        self.kept_alive.sendall(REQUEST)
        assert one_response(self.kept_alive).startswith(b"HTTP/1.1 200")
        self.new: list[socket.socket] = []
        self.slow: socket.socket | None = None
        self.thread = threading.Thread(target=self._send_after_the_port_is_closed)

    def send(self) -> None:
        self.kept_alive.sendall(REQUEST)
        self.new = [self.server.connect() for _ in range(16)]
        for connection in self.new:
            connection.sendall(REQUEST)
        self.slow = self.server.connect()
        self.thread.start()

    def _send_after_the_port_is_closed(self) -> None:
        assert self.slow is not None
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.server.port), timeout=0.1).close()
            except OSError:
                break
        self.slow.sendall(REQUEST)


def test_what_was_sent_before_the_port_is_closed_is_answered(
    predictor: SSPSAMPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_LAST_REQUEST_SECONDS", 3.0)  # the thread may get its turn late
    late: list[LateClients] = []
    with running(predictor, on_shutdown=lambda: late[0].send()) as server:
        late.append(LateClients(server))
    [clients] = late
    clients.thread.join()
    assert clients.slow is not None
    for connection in (clients.kept_alive, *clients.new, clients.slow):
        with connection:
            answer = received(connection)
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"connection: close" in answer.lower()
    with clients.silent as connection:
        assert received(connection) == b""


@pytest.mark.skipif(sys.platform != "linux", reason="the filter is one of Linux")
def test_a_listening_socket_keeps_its_connections_and_makes_no_further_ones() -> None:
    with bound_socket("127.0.0.1", 0) as listener:
        address = listener.getsockname()
        with socket.create_connection(address, timeout=5) as earlier:
            refuse_new_connections(listener)
            with pytest.raises(TimeoutError):
                socket.create_connection(address, timeout=0.1)
            earlier.sendall(b"request")
            with listener.accept()[0] as accepted:
                assert accepted.recv(100) == b"request"
