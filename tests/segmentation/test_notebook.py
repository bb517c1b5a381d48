"""Answers in a notebook: images, legends, and a notebook that is really executed."""

import base64
import dataclasses
import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sspsam import Segmentation
from sspsam.segmentation import show
from sspsam.segmentation.colors import PALETTE


@pytest.fixture
def result(image: np.ndarray) -> Segmentation:
    mask = np.zeros((60, 90), dtype=bool)
    mask[10:30, 20:50] = True
    return Segmentation(
        "the <b>mug</b>", mask, False, 600, 0.9, (20.0, 10.0, 50.0, 30.0), (20, 10, 50, 30), pixels=image
    )


@pytest.fixture
def nothing(result: Segmentation) -> Segmentation:
    return dataclasses.replace(result, text="a cat", mask=np.zeros((60, 90), bool), no_target=True, mask_box=None)


def images_in(html: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def png(data: bytes | None) -> np.ndarray:
    assert data is not None
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def test_a_result_is_an_image_with_a_legend(result: Segmentation) -> None:
    html = result._repr_html_()
    [image] = images_in(html)
    assert image.size == (90, 60)
    assert "the &lt;b&gt;mug&lt;/b&gt;" in html
    assert "600 pixels (11.1%)" in html
    assert "score 0.90" in html
    assert f"background:rgb{PALETTE[0]}" in html
    values = png(result._repr_png_()).astype(int)
    assert values.shape == (60, 90, 3)
    assert np.abs(values[40:, 60:] - result.pixels[40:, 60:]).max() == 0
    assert np.abs(values[15:25, 25:45] - result.pixels[15:25, 25:45]).max() > 40


def test_no_target_is_said_in_words(nothing: Segmentation) -> None:
    html = nothing._repr_html_()
    assert "a cat" in html
    assert "no target" in html
    assert "pixels (" not in html
    assert f"rgb{PALETTE[0]}" not in html


def test_a_list_of_answers_about_one_image_is_one_image(result: Segmentation, nothing: Segmentation) -> None:
    html = show([result, nothing])._repr_html_()
    assert len(images_in(html)) == 1
    assert html.count("<tr>") == 2
    assert f"rgb{PALETTE[0]}" in html


def test_answers_about_several_images_are_several_images(result: Segmentation, nothing: Segmentation) -> None:
    other = dataclasses.replace(result, pixels=result.pixels.copy(), text="the cup")
    view = show([[result, nothing], [other]])
    assert len(images_in(view._repr_html_())) == 2
    assert png(view._repr_png_()).shape == (60 + 12 + 60, 90, 3)
    assert repr(view).splitlines() == [repr(result), repr(nothing), repr(other)]


def test_a_large_image_is_reduced_and_thin_masks_stay_visible(result: Segmentation) -> None:
    mask = np.zeros((1500, 3000), bool)
    mask[700:702, 100:2900] = True
    large = dataclasses.replace(
        result, mask=mask, mask_box=(100, 700, 2900, 702), pixels=np.full((1500, 3000, 3), 128, np.uint8)
    )
    values = png(large._repr_png_())
    assert values.shape == (400, 800, 3)
    assert (values[180:195, 400] != 128).any()


def test_an_answer_without_its_image_shows_the_mask_and_the_way_to_add_it(result: Segmentation) -> None:
    bare = dataclasses.replace(result, pixels=None)
    assert "with_image" in bare._repr_html_()
    assert png(bare._repr_png_()).shape == (60, 90, 3)


def test_a_view_of_nothing_and_of_wrong_objects() -> None:
    assert show([])._repr_png_() is None
    assert "no answers" in show([])._repr_html_()
    for wrong in (None, 7, "text", [None], np.zeros(3)):
        with pytest.raises(TypeError, match=r"show\(\) takes a Segmentation"):
            show(wrong)  # type: ignore[arg-type]


SETUP = """
import numpy as np
from sspsam import Segmentation
from sspsam.segmentation import show
pixels = np.full((60, 90, 3), 128, np.uint8)
mask = np.zeros((60, 90), bool)
mask[10:30, 20:50] = True
box = (20.0, 10.0, 50.0, 30.0)
mug = Segmentation("the mug", mask, False, 600, 0.9, box, (20, 10, 50, 30), pixels=pixels)
cat = Segmentation("a cat", np.zeros((60, 90), bool), True, 0, 0.9, box, None, pixels=pixels)
"""


def test_an_executed_notebook_holds_the_images_and_legends(tmp_path: Path) -> None:
    import nbformat
    from jupyter_client import KernelManager
    from jupyter_client.kernelspec import KernelSpec
    from nbclient import NotebookClient

    class ThisPython(KernelManager):
        """A kernel of the Python that runs the tests, whichever kernels are installed for the user."""

        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])

    cells = [nbformat.v4.new_code_cell(code) for code in (SETUP, "mug", "cat", "show([mug, cat])")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=300, kernel_manager_class=ThisPython).execute(cwd=str(tmp_path))
    first, second, both = (cell.outputs[0].data for cell in notebook.cells[1:])
    for output in (first, second, both):
        assert {"text/plain", "text/html", "image/png"} <= set(output)
        assert [image.size for image in images_in(output["text/html"])] == [(90, 60)]
        assert png(base64.b64decode(output["image/png"])).shape == (60, 90, 3)
    assert "the mug" in first["text/html"]
    assert "no target" in second["text/html"]
    assert "no target" not in first["text/html"]
    assert both["text/html"].count("<tr>") == 2
    assert first["text/plain"].startswith("Segmentation('the mug'")
