"""Names of files and expressions that look like messages of the library reach the terminal as they are."""

from pathlib import Path

import pytest
from PIL import Image

from tests.support.command import run_command
from tests.support.names import HOSTILE


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_images_are_printed_as_they_are(name: str, tiny_model: Path, tmp_path: Path) -> None:
    words = ["-t", "formats was a mug", "--model", tiny_model, "--device", "cpu"]
    empty, text, large = tmp_path / "empty" / name, tmp_path / "text" / name, tmp_path / "large" / name
    for path in (empty, text, large):
        path.parent.mkdir()
    empty.touch()
    text.write_text("no image")
    Image.new("RGB", (80, 60)).save(large)
    done = run_command("segment", empty, text, large, tmp_path / name, *words, "--max-pixels", "4000")
    assert done.exit_code == 1
    lines = done.stderr.splitlines()
    assert lines[0] == f"sspsam: {empty} is empty (0 bytes)"
    assert lines[1].startswith(f"sspsam: {text} is not an image that Pillow can read")
    assert lines[2] == (
        f"sspsam: {large} has 80 x 60 = 4,800 pixels, more than --max-pixels 4,000. Reduce the image, or pass a larger "
        "--max-pixels."
    )
    assert lines[3] == f"sspsam: no such image file: {tmp_path / name}"


def test_values_of_options_are_printed_as_they_are_beside_the_flags(tiny_model: Path, tmp_path: Path) -> None:
    image, output = tmp_path / "a.png", tmp_path / "overwrite=True"
    Image.new("RGB", (80, 60)).save(image)
    words = ["--model", tiny_model, "--device", "cpu"]
    assert run_command("batch", image, output, "-t", "formats was", *words).exit_code == 0
    done = run_command("batch", image, output, "-t", "device='cpu'", *words, "--no-target-pixels", "3")
    assert f"an earlier run in {output} had other inputs or options" in done.stderr
    assert "--no-target-pixels was 50, is 3; " in done.stderr
    assert """-t was ["formats was"], is ["device='cpu'"].""" in done.stderr
    done = run_command("batch", image, tmp_path / "out", "-t", "a", *words, "--glob", "shard was*.png")
    assert "--glob selects files of a folder, and " in done.stderr


def test_a_wrong_option_of_the_server_is_named_beside_its_value() -> None:
    done = run_command("serve", "--root-path", "max_bytes the token")
    assert done.exit_code == 1
    assert done.stderr == "sspsam: --root-path must look like '/sspsam', not 'max_bytes the token'\n"
    done = run_command("serve", "--cors-origin", "replica")
    assert done.stderr.startswith("sspsam: --cors-origin must be '*' or look like")
    assert done.stderr.endswith("not 'replica'\n")
    done = run_command("serve", "--body-memory", "5")
    assert done.stderr == "sspsam: --body-memory = 5 is less than --max-bytes = 33,554,432\n"
