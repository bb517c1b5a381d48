"""`sspsam demo`: wrong usage is answered before a model is loaded."""

import socket
import sys

import pytest

from sspsam.cli.demo import demo
from sspsam.demo.server import DEFAULT_PORT, gradio_environment, open_port
from sspsam.errors import PortError
from tests.support.command import run_command as run
from tests.support.sockets import sends_at_once


@pytest.fixture(autouse=True)
def _without_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing Gradio takes seconds; tests of the page import it."""
    monkeypatch.setattr("sspsam.demo.server.require_gradio", lambda *_: None)


@pytest.fixture
def taken() -> "int":
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_port_that_is_taken_is_named_with_another_one_to_try(taken: int) -> None:
    done = run("demo", "--port", taken)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"sspsam: cannot listen on port {taken} of 127.0.0.1: ")
    assert "--port" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_free_port_listens_on_this_computer_only() -> None:
    with open_port(0) as listener:
        host, port = listener.getsockname()
        assert host == "127.0.0.1"
        assert port > 0
        with pytest.raises(PortError):
            open_port(port)


def test_a_response_of_the_page_does_not_wait_for_an_acknowledgement() -> None:
    assert sends_at_once(open_port(0))


def test_the_default_port_of_the_command_is_that_of_the_server() -> None:
    assert next(option for option in demo.params if option.name == "port").default == DEFAULT_PORT


def test_an_unknown_model_and_an_empty_name_are_refused_at_once() -> None:
    assert "ssp-sam-224-grefcoco" in run("demo", "--model", "ssp-sam-grefcoco").stderr
    assert run("demo", "--model", " ").exit_code == 2
    assert run("demo", "--port", "70000").exit_code == 2


def test_without_the_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = run("demo", "--port", "0")
    assert done.exit_code == 1
    assert "pip install '.[demo]'" in done.stderr


def test_variables_of_gradio_are_replaced_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("GRADIO_ALLOWED_PATHS", "/")
    monkeypatch.setenv("GRADIO_SHARE", "True")
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    with gradio_environment("/folder"):
        assert "GRADIO_ALLOWED_PATHS" not in os.environ
        assert "GRADIO_SHARE" not in os.environ
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
        assert os.environ["GRADIO_TEMP_DIR"] == "/folder"
    assert os.environ["GRADIO_ALLOWED_PATHS"] == "/"
    assert os.environ["GRADIO_SHARE"] == "True"
    assert "GRADIO_TEMP_DIR" not in os.environ
