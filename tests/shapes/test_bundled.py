"""The bundled model: found offline, never written to, never used unless it is named.

No test here depends on how good its masks are.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors import safe_open

import sspsam
from sspsam import SSPSAMPredictor, errors
from sspsam.checkpoints import listing
from sspsam.checkpoints.format import load_checkpoint, read_config
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.names import BUNDLED_LICENSE, missing_name_message
from sspsam.hub import resolve
from tests.support.command import run_command
from tests.support.hub import FakeHub

DIRECTORY = Path(sspsam.__file__).parent / "bundled" / "shapes"
ORIGIN = f"bundled with sspsam {sspsam.__version__}"


def load(**arguments: object) -> SSPSAMPredictor:
    return SSPSAMPredictor.from_pretrained("shapes", device="cpu", **arguments)


def start(code: str, **environment: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
    )


def state_of_the_package() -> dict[str, tuple[int, int]]:
    paths = [DIRECTORY, *DIRECTORY.rglob("*")]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in paths}


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundled files that a test may damage, used in their place."""
    directory = tmp_path / "package" / "shapes"
    shutil.copytree(DIRECTORY, directory)
    monkeypatch.setattr("sspsam.checkpoints.bundled.BUNDLED_DIRECTORY", directory)
    return directory


@pytest.fixture
def elsewhere(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a checkpoint called shapes in it."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(tiny_model, folder / "shapes")
    monkeypatch.chdir(folder)
    return folder / "shapes"


# finding


def test_the_name_means_the_files_in_the_package() -> None:
    found = resolve("shapes")
    assert found.path == DIRECTORY
    assert found.origin == ORIGIN
    predictor = load()
    assert predictor.origin == ORIGIN
    assert predictor.fingerprint == read_config(DIRECTORY).fingerprint


@pytest.mark.parametrize("verify", [None, True, False])
@pytest.mark.parametrize("local_files_only", [True, False])
@pytest.mark.parametrize("offline", [True, False])
def test_it_loads_with_any_options_and_sends_no_request(
    hub: FakeHub, monkeypatch, tmp_path, verify, local_files_only, offline
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setenv("SSPSAM_REPOSITORY", "us/converted")
    predictor = load(verify=verify, local_files_only=local_files_only, cache_dir=tmp_path / "cache", token="hf_bad")
    assert predictor.origin == ORIGIN
    assert hub.requests == []
    assert not (tmp_path / "cache").exists()


def test_it_predicts_with_nothing_but_the_package_opening_no_socket_and_starting_no_process(tmp_path) -> None:
    process = start(
        """
        import sys
        def forbid(event, arguments):
            if event.startswith(("socket.__new__", "socket.connect", "socket.getaddrinfo", "subprocess", "os.system")):
                raise RuntimeError(f"{event} {arguments}")
        import torch, torchvision  # imported before: what these open does not count
        sys.addaudithook(forbid)
        import numpy as np
        from sspsam import SSPSAMPredictor
        predictor = SSPSAMPredictor.from_pretrained("shapes", device="cpu")
        result = predictor.predict("a red circle", image=np.zeros((20, 30, 3), np.uint8))
        print(result.mask.shape, result.mask.dtype)
        """,
        HF_HOME=tmp_path / "none",
        HF_HUB_OFFLINE=1,
        HF_ENDPOINT="http://127.0.0.1:9",
    )
    output, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint
    assert output == "(20, 30) bool\n"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "arguments", [{"revision": "main"}, {"repository": "us/converted"}], ids=["revision", "repository"]
)
def test_options_that_only_the_hub_has_are_refused(arguments: dict[str, str]) -> None:
    [(word, value)] = arguments.items()
    with pytest.raises(errors.CheckpointNotFoundError, match=rf"bundled.*{word} '{value}'.*leave the {word} away"):
        load(**arguments)


# not by accident


def test_a_directory_of_that_name_needs_a_path_and_the_name_warns_of_it(elsewhere: Path) -> None:
    with pytest.warns(errors.SSPSAMWarning, match=re.escape("./shapes")):
        assert resolve("shapes").path == DIRECTORY
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in ("./shapes", str(elsewhere), Path("shapes"), elsewhere):
            found = resolve(path)
            assert (found.path.resolve(), found.bundled) == (elsewhere, False)


def test_a_directory_of_that_name_without_a_checkpoint_gives_no_warning(tmp_path, monkeypatch) -> None:
    (tmp_path / "shapes").mkdir()
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve("shapes").path == DIRECTORY


@pytest.mark.parametrize(
    "name", [None, "", " ", "Shapes", "SHAPES", "shape", "shapes ", "shapes/", "./shapes", Path("shapes")]
)
def test_neither_another_name_nor_a_missing_name_means_it(name: object, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.CheckpointNotFoundError):
        resolve(name)


def test_a_checkpoint_that_the_hub_does_not_have_is_not_replaced_by_it(hub: FakeHub, tmp_path) -> None:
    for name in ("ssp-sam-336-refcoco", "owner/shapes", "owner/name:shapes"):
        with pytest.raises(errors.SSPSAMError):
            resolve(name, HubOptions(cache_dir=tmp_path))


def test_the_errors_for_a_missing_and_for_a_nearly_right_name_mention_it() -> None:
    assert "'shapes' comes with sspsam, for drawn shapes only" in missing_name_message()
    with pytest.raises(errors.CheckpointNotFoundError, match="Did you mean shapes"):
        resolve("shape")


# the files


def test_its_weights_are_stored_in_half_precision_and_compute_in_single() -> None:
    with safe_open(DIRECTORY / "model.safetensors", framework="pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118  # not a mapping
    model, _ = load_checkpoint(DIRECTORY, verify=True)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


def test_its_configuration_and_its_card_state_purpose_and_licence() -> None:
    config = read_config(DIRECTORY)
    assert config.license == BUNDLED_LICENSE
    assert config.source != "unknown"
    card = (DIRECTORY / "README.md").read_text()
    assert f"license: {BUNDLED_LICENSE}\n" in card
    assert "photographs mean nothing" in card


def test_it_is_small_enough_to_be_bundled() -> None:
    assert sum(path.stat().st_size for path in DIRECTORY.iterdir()) < 40e6
    # in a wheel, which is compressed, the equal rows of all words that it does not know take little space
    assert len(zlib.compress((DIRECTORY / "model.safetensors").read_bytes(), 1)) < 22e6


def test_loading_writes_nothing_into_the_package_and_needs_no_writable_home(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    before = state_of_the_package()
    for home in (tmp_path / "home", tmp_path / "file" / "home"):  # nothing can be made in a file
        monkeypatch.setenv("SSPSAM_HOME", str(home))
        for verify in (None, True):
            assert load(verify=verify).origin == ORIGIN
        assert run_command("verify", "shapes").exit_code == 0
        assert run_command("download", "shapes").exit_code == 0
    assert state_of_the_package() == before


def test_read_only_files_and_folders_load(copy: Path) -> None:
    for path in (*copy.iterdir(), copy, copy.parent):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert load(verify=True).origin == ORIGIN
    finally:
        for path in (copy.parent, copy):
            path.chmod(0o755)


@pytest.mark.slow
def test_two_processes_at_once_load_the_same_model_in_little_time(tmp_path) -> None:
    code = """
        import time
        import open_clip, segment_anything, torch
        from sspsam import SSPSAMPredictor
        torch.set_num_threads(1)
        began = time.process_time()
        predictor = SSPSAMPredictor.from_pretrained("shapes", device="cpu")
        print(predictor.fingerprint, time.process_time() - began)
    """
    processes = [start(code, SSPSAM_HOME=tmp_path / "new") for _ in range(2)]
    for process in processes:
        output, complaint = process.communicate(timeout=300)
        assert process.returncode == 0, complaint
        fingerprint, seconds = output.split()
        assert fingerprint == read_config(DIRECTORY).fingerprint
        assert float(seconds) < 2  # of the processor; how busy the computer is does not matter


# broken installations


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_the_error_for_an_incomplete_installation_names_the_file_and_the_next_step(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(errors.CheckpointNotFoundError, match=rf"has no {re.escape(name)}\. Reinstall sspsam"):
        load()
    assert listing.bundled().state == "missing"
    assert run_command("models").stdout.startswith("shapes\tmissing\t-\t")


def test_the_error_for_an_installation_without_the_folder_names_both_files(copy: Path) -> None:
    shutil.rmtree(copy)
    with pytest.raises(errors.CheckpointNotFoundError, match=r"config\.json and no model\.safetensors\. Reinstall"):
        load(local_files_only=True)


def cut(directory: Path) -> None:
    os.truncate(directory / "model.safetensors", 1000)


def flip_a_bit(directory: Path) -> None:
    path = directory / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def empty_the_configuration(directory: Path) -> None:
    (directory / "config.json").write_text("{}")


@pytest.mark.parametrize("damage", [cut, flip_a_bit, empty_the_configuration])
def test_the_error_for_damaged_files_says_to_reinstall(copy: Path, damage: Callable[[Path], None]) -> None:
    damage(copy)
    for fails in (load, lambda: listing.verify("shapes", HubOptions())):
        with pytest.raises((errors.CheckpointError, errors.ConfigError), match="reinstall sspsam"):
            fails()


# the commands


def test_it_is_listed_first_with_its_purpose() -> None:
    first, *others = run_command("models").stdout.splitlines()
    name, state, size, licence, purpose = first.split("\t")
    assert (name, state, licence) == ("shapes", "bundled", BUNDLED_LICENSE)
    megabytes = (DIRECTORY / "model.safetensors").stat().st_size / 1e6
    assert abs(float(size.removesuffix(" MB")) - megabytes) < 1
    assert "not photographs" in purpose
    assert [line.split("\t")[0] for line in others] == [entry.name for entry in listing.published(HubOptions())]


def test_it_is_verified_by_name() -> None:
    assert run_command("verify", "shapes").stdout == f"shapes\tgood\t{read_config(DIRECTORY).weights_sha256}\n"


def test_downloading_it_prints_its_directory_and_that_it_is_bundled(hub: FakeHub) -> None:
    done = run_command("download", "shapes")
    assert done.exit_code == 0
    assert done.stdout == f"{DIRECTORY}\t{ORIGIN}\n"
    assert "already there" in done.stderr
    assert hub.requests == []


def test_it_is_not_deleted_with_the_cache(elsewhere: Path, copy: Path) -> None:
    done = run_command("cache", "--delete", "shapes")
    assert done.exit_code == 1
    assert "bundled with sspsam and not in the cache" in done.stderr
    assert len(list(copy.iterdir())) == len(list(DIRECTORY.iterdir()))
    assert (elsewhere / "config.json").exists()


def test_images_are_segmented_with_it_from_the_command_line(tmp_path: Path, image: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(image).save(tmp_path / "a.png")
    done = run_command("segment", tmp_path / "a.png", "-t", "a red circle", "--model", "shapes", "--format", "json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["text"] == "a red circle"
