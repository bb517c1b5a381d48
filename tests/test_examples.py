"""The examples run, with the bundled model on drawn scenes, and do what they say."""

import importlib.util
import io
import json
import re
import runpy
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from sspsam import Segmentation
from sspsam.segmentation import polygons_to_mask
from sspsam.shapes import ask, draw_scene
from tests.support.answers import iou
from tests.support.masks import Mask

EXAMPLES = Path(__file__).parents[1] / "examples"
TESTS = Path(__file__).parent
Example = Callable[..., str]
HEARTS, NOTHING = "both hearts", "the green heart"  # about examples/shapes.png


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Example:
    """Run an example with some arguments in this process, in a temporary directory, and return what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A folder with two drawn scenes."""
    (tmp_path / "scenes").mkdir()
    for seed in range(2):
        Image.fromarray(draw_scene(seed, (120, 160)).pixels).save(tmp_path / "scenes" / f"{seed}.png")
    return tmp_path / "scenes"


def needed(name: str) -> None:
    """Skip, with a warning, where a package that only an example needs is not installed."""
    if importlib.util.find_spec(name) is None:
        warnings.warn(f"{name} is not installed: the test of its example is SKIPPED", stacklevel=2)
        pytest.skip(f"needs {name}")


@pytest.fixture(scope="module")
def hearts() -> Mask:
    from sspsam import SSPSAMPredictor

    result = SSPSAMPredictor.from_pretrained("shapes").predict(HEARTS, image=EXAMPLES / "shapes.png")
    assert result.mask.any()
    return result.mask


def test_every_example_is_short_is_listed_and_is_named_by_a_test() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    tests = "".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    assert names - set(re.findall(r'"([a-z_]+\.py)"', tests)) == set()
    listed = set(re.findall(r"\]\((\w+\.py)\)", (EXAMPLES / "README.md").read_text()))
    assert names - listed == set()
    assert listed <= names
    for name in names:
        assert len((EXAMPLES / name).read_text().splitlines()) <= 40, name


def test_cut_outs_have_the_mask_as_their_alpha_and_an_absent_thing_has_none(example, tmp_path, hearts) -> None:
    output = example("cut_out.py", EXAMPLES / "shapes.png", HEARTS, NOTHING, "--model", "shapes")
    assert f"{NOTHING}: nothing in" in output
    cutout = np.asarray(Image.open(tmp_path / "shapes-1.cutout.png"))
    assert np.array_equal(cutout[..., 3] == 255, hearts)
    white = np.asarray(Image.open(tmp_path / "shapes-1.white.jpg"))
    rows, columns = np.nonzero(hearts)
    far = np.ones_like(hearts)
    far[max(0, rows.min() - 20) : rows.max() + 20, max(0, columns.min() - 20) : columns.max() + 20] = False
    assert (white[far] > 245).all()
    assert max(Image.open(tmp_path / "shapes-1.thumbnail.png").size) <= 256
    assert not list(tmp_path.glob("shapes-2.*"))


def test_a_folder_gives_masks_a_coco_file_and_a_line_for_each_answer_and_failure(example, tmp_path, scenes) -> None:
    (scenes / "broken.png").write_text("no image")
    texts = (ask(draw_scene(0, (120, 160)), seed=0, count=1)[0].text, "a purple cat")
    for _ in range(2):  # the second run has nothing left to do
        output = example("folder.py", scenes, tmp_path / "out", *texts, "--model", "shapes")
        assert len(re.findall(r"^[01]\.png: ", output, flags=re.MULTILINE)) == 4
        assert "failed: broken.png" in output
    assert (tmp_path / "out" / "0.png-1.png").is_file()
    assert len(json.loads((tmp_path / "out" / "coco.json").read_text())["images"]) == 2


def test_an_application_answers_an_upload_with_the_mask_and_bad_requests_with_a_message(monkeypatch, hearts) -> None:
    for name in ("fastapi", "httpx", "multipart"):
        needed(name)
    from fastapi.testclient import TestClient

    monkeypatch.delenv("SSPSAM_MODEL", raising=False)
    client = TestClient(runpy.run_path(str(EXAMPLES / "fastapi_app.py"))["app"])
    files = {"image": (EXAMPLES / "shapes.png").read_bytes()}
    response = client.post("/mask", files=files, data={"text": HEARTS})
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(response.content))), hearts)
    assert len(response.headers["x-mask-box"].split(",")) == 4
    absent = client.post("/mask", files=files, data={"text": NOTHING})
    assert (absent.status_code, NOTHING in absent.json()["detail"]) == (404, True)
    assert client.post("/mask", files={"image": b"no image"}, data={"text": HEARTS}).status_code == 422
    assert client.post("/mask", files=files, data={"text": " "}).status_code == 422


@pytest.mark.slow
def test_supervision_draws_the_answers(example, tmp_path, hearts) -> None:
    needed("supervision")
    output = example("supervision_boxes.py", EXAMPLES / "shapes.png", "drawn.png", HEARTS, NOTHING, "--model", "shapes")
    rows, columns = np.nonzero(hearts)
    box = [float(side) for side in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
    assert output.splitlines() == [f"{HEARTS}\t{box}"]
    drawn, scene = np.asarray(Image.open("drawn.png")), np.asarray(Image.open(EXAMPLES / "shapes.png").convert("RGB"))
    assert drawn.shape == scene.shape
    changed = (drawn != scene).any(axis=-1)
    assert changed[hearts].mean() > 0.9


@pytest.mark.slow
def test_every_frame_of_a_video_is_drawn_with_its_masks(example, tmp_path) -> None:
    needed("av")
    import av

    scene = np.asarray(Image.open(EXAMPLES / "shapes.png").convert("RGB").resize((161, 121)))
    with av.open(tmp_path / "in.mp4", "w") as video:
        stream = video.add_stream("libx264", rate=5, width=160, height=120, pix_fmt="yuv420p")
        for _ in range(3):
            video.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(scene[:120, :160]))))
        video.mux(stream.encode())
    output = example("video.py", "in.mp4", "out.mp4", "the star", "a cat", "--every", 2, "--model", "shapes")
    assert [line.split(":")[0] for line in output.splitlines()] == ["frame 0", "frame 2"]
    with av.open(tmp_path / "out.mp4") as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert [frame.shape for frame in frames] == [(120, 160, 3)] * 3


@pytest.mark.slow
def test_ray_data_writes_the_answer_of_each_image(tmp_path, scenes) -> None:
    needed("ray")
    import pyarrow.parquet

    command = [sys.executable, str(EXAMPLES / "ray_data.py"), str(scenes), "out", "the largest shape"]
    done = subprocess.run(
        [*command, "--model", "shapes"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = pyarrow.parquet.read_table(tmp_path / "out").to_pylist()
    assert sorted(Path(row["path"]).name for row in rows) == ["0.png", "1.png"]
    from sspsam import SSPSAMPredictor

    predictor = SSPSAMPredictor.from_pretrained("shapes")
    for row in rows:
        expected = predictor.predict("the largest shape", image=row["path"])
        assert iou(Segmentation.from_dict(row).mask, expected.mask) == 1


class LabelStudioMLBase:
    """A stand-in for the class of label-studio-ml 2.0, which the package index does not have."""

    parsed_label_config: ClassVar = {"tag": {"type": "PolygonLabels", "labels": [HEARTS, NOTHING]}}

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.setup()

    def setup(self) -> None: ...

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def get_first_tag_occurence(self, control_type: str, object_type: str) -> tuple[str, str, str]:
        assert (control_type, object_type) == ("PolygonLabels", "Image")
        return "tag", "picture", "photo"

    def get_local_path(self, url: str, task_id: int | None = None) -> str:
        return url.removeprefix("upload:")


@pytest.mark.slow
def test_a_backend_of_label_studio_proposes_polygons_for_the_labels_of_the_project(monkeypatch, hearts) -> None:
    for name, content in (("model", {"LabelStudioMLBase": LabelStudioMLBase}), ("api", {"init_app": None})):
        module = types.ModuleType(f"label_studio_ml.{name}")
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, f"label_studio_ml.{name}", module)
    monkeypatch.setitem(sys.modules, "label_studio_ml", types.ModuleType("label_studio_ml"))
    monkeypatch.setenv("SSPSAM_MODEL", "shapes")
    backend = runpy.run_path(str(EXAMPLES / "label_studio_backend.py"))["Backend"]()
    task = {"id": 3, "data": {"photo": f"upload:{EXAMPLES / 'shapes.png'}"}}
    [first, second] = json.loads(json.dumps(backend.predict([task, task])))
    assert first == second
    assert first["model_version"] == backend.values["model_version"]
    height, width = hearts.shape
    rings = []
    for region in first["result"]:
        assert (region["from_name"], region["to_name"]) == ("tag", "picture")
        assert region["value"]["polygonlabels"] == [HEARTS]
        rings.append((np.array(region["value"]["points"]) * (width, height) / 100).ravel())
    assert iou(polygons_to_mask(rings, height, width), hearts) >= 0.99


def test_the_example_for_fiftyone_compiles_and_uses_existing_names() -> None:
    source = (EXAMPLES / "fiftyone_dataset.py").read_text()
    compile(source, "fiftyone_dataset.py", "exec")
    for line in re.findall(r"^from sspsam.*$", source, flags=re.MULTILINE):
        exec(line, {})


@pytest.mark.slow
def test_a_data_set_of_fiftyone_has_the_masks_and_the_absent_things(example, scenes) -> None:
    needed("fiftyone")
    output = example(
        "fiftyone_dataset.py", scenes, "the largest shape", "a purple cat", "--no-app", "--model", "shapes"
    )
    assert re.search(r"^[12] masks in 2 images$", output, flags=re.MULTILINE)


def test_examples_for_photographs_name_the_model_that_is_known_to_be_published() -> None:
    names = {name for path in EXAMPLES.glob("*.py") for name in re.findall(r"ssp-sam-[\w+-]+", path.read_text())}
    assert names == {"ssp-sam-224-grefcoco"}
