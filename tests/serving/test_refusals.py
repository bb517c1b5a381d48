"""Errors of the library as answers of the server: its own words for limits, and texts of clients as they are."""

import httpx
import pytest

from sspsam import SSPSAMPredictor
from sspsam.errors import ImageError, SSPSAMError
from sspsam.images.loading import load_image
from sspsam.images.pixel_limits import too_many_pixels
from sspsam.serving.options import ServeOptions
from sspsam.serving.refusals import refusal_of
from tests.support.names import HOSTILE
from tests.support.serving import image_file, running


def message(error: SSPSAMError) -> str:
    refusal = refusal_of(error)
    assert refusal is not None
    return str(refusal)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_files_are_repeated_as_they_are(name: str) -> None:
    assert message(ImageError(f"{name} is empty")) == f"{name} is empty"
    limit = "has 80 x 60 = 4,800 pixels, more than the server's limit of 4,000. Reduce the image."
    assert message(too_many_pixels(name, 80, 60, 4000)) == f"{name} {limit}"


def test_the_way_to_read_heic_in_python_is_left_out() -> None:
    with pytest.raises(ImageError) as caught:
        load_image(b"\0\0\0\x18ftypheic" + bytes(40))
    assert "pillow_heif.register_heif_opener()" in str(caught.value)
    assert message(caught.value) == "the image of 52 bytes is a HEIC/HEIF image. Convert the image to JPEG or PNG."


@pytest.mark.parametrize("name", HOSTILE)
def test_a_client_sees_no_trace_of_names_that_look_like_messages(predictor: SSPSAMPredictor, name: str) -> None:
    with running(predictor, ServeOptions(max_pixels=4000)) as server, server.client() as client:
        response = upload(client, image_file(size=(60, 80)), name)
        assert response.status_code == 413
        assert response.json()["error"]["message"] == (
            "the image has 80 x 60 = 4,800 pixels, more than the server's limit of 4,000. Reduce the image."
        )
        assert upload(client, b"", name).json()["error"]["message"] == "the image is empty (0 bytes)"


def upload(client: httpx.Client, data: bytes, name: str) -> httpx.Response:
    return client.post("/v1/segment", files={"image": (name, data)}, data={"expressions": name})
