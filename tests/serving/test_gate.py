"""The access log of requests that are refused, without a server."""

import secrets

import pytest

from sspsam.serving.app import create_app
from sspsam.serving.options import ServeOptions
from tests.support.asgi import ASGIClient
from tests.support.serving import GatedPredictor


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/images/ID/segment"),
        ("GET", "/v1/images/ID/segment"),
        ("DELETE", "/v1/images/ID/"),
        ("GET", "/v1/images/ID"),
        ("POST", "/V1//images//ID/segment"),
        ("POST", "/v1/image/ID/segments"),
    ],
)
@pytest.mark.parametrize("options", [ServeOptions(token="secret"), ServeOptions(replica="node-7.", root_path="/a")])
def test_the_log_of_a_refused_request_has_no_whole_id(
    gated: GatedPredictor, options: ServeOptions, method: str, path: str
) -> None:
    lines: list[str] = []
    app = create_app(lambda: gated, options, log=lines.append)  # type: ignore[arg-type, return-value]  # a stand-in
    name = options.replica + secrets.token_urlsafe(16)
    ASGIClient(app)(method, path.replace("ID", name))
    [line] = lines
    assert name[len(options.replica) :] not in line
    assert f"/{name[:6]}..." in line
