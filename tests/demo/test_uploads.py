"""Images that visitors give: uploaded files and base64, and nothing else of the computer or the network."""

import base64
from pathlib import Path

import pytest

from sspsam.demo.limits import Limits
from sspsam.demo.uploads import base64_image, path_inside, uploaded_image
from sspsam.errors import ImageError, ImageTooLargeError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "files" / "a").mkdir(parents=True)
    (tmp_path / "files" / "a" / "scene.png").write_bytes(b"content")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "files" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "files-of-others").mkdir()
    (tmp_path / "files-of-others" / "b").write_text("secret")
    return (tmp_path / "files").resolve()


def test_an_uploaded_file_is_read_with_its_name(folder: Path) -> None:
    path = str(folder / "a" / "scene.png")
    assert uploaded_image({"path": path, "orig_name": "../mine.png"}, folder, Limits()) == (b"content", "mine.png")
    assert uploaded_image({"path": path}, folder, Limits()) == (b"content", "scene.png")


@pytest.mark.parametrize(
    "name",
    [
        "{0}/../secret",
        "{0}/link",
        "{0}",
        "{0}/a",
        "{0}/none.png",
        "{0}-of-others/b",
        "/etc/passwd",
        "../secret",
        "file://{0}/a/scene.png",
        "http://127.0.0.1/a.png",
        "{0}/a/scene.png\0",
        "x" * 100_000,
    ],
)
def test_nothing_outside_of_the_folder_is_a_file_of_a_visitor(folder: Path, name: str) -> None:
    assert path_inside(name.format(folder), folder) is None
    with pytest.raises(ImageError, match="choose it again"):
        uploaded_image({"path": name.format(folder)}, folder, Limits())


@pytest.mark.parametrize("payload", [None, {}, [], "text", {"path": None}, {"url": "http://127.0.0.1/"}])
def test_no_image_yet_is_said_plainly(folder: Path, payload: object) -> None:
    with pytest.raises(ImageError, match="There is no image yet"):
        uploaded_image(payload, folder, Limits())


def test_an_uploaded_file_that_is_too_large_is_not_read(folder: Path) -> None:
    with pytest.raises(ImageTooLargeError, match="takes files of up to"):
        uploaded_image({"path": str(folder / "a" / "scene.png")}, folder, Limits(max_bytes=6))


def test_base64_is_read_with_and_without_the_beginning_of_a_data_url() -> None:
    text = base64.b64encode(b"content").decode()
    assert base64_image(text, Limits()) == b"content"
    assert base64_image(f"{text[:4]}\n{text[4:]}", Limits()) == b"content"
    assert base64_image(f"data:image/png;base64,{text}", Limits()) == b"content"


@pytest.mark.parametrize(
    "text", ["/etc/passwd", "http://127.0.0.1/a.png", "file:///etc/passwd", "data:text/html,a", "é"]
)
def test_paths_and_urls_are_no_base64_and_are_not_opened(text: str) -> None:
    with pytest.raises(ImageError):
        base64_image(text, Limits())


def test_base64_beyond_the_limit_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(ImageTooLargeError):
        base64_image("!" * 4000, Limits(max_bytes=2000))
