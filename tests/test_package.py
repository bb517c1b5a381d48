"""What holds for the package as a whole: light, quiet, layered, typed, and no trace left in its host."""

import ast
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import sspsam

PACKAGE = Path(sspsam.__file__).parent

# rooms from the lowest to the highest: each may import those of earlier rows, never those of its own row or of later
# ones
ROOM_ORDER = [
    ["messages", "_version"],
    ["errors"],
    ["utils", "shapes"],
    ["config", "devices"],
    ["identity"],
    ["models"],
    ["images", "text"],
    ["segmentation", "checkpoints"],
    ["hub", "convert"],
    ["predictor"],
    ["batch", "evaluation", "serving"],
    ["demo", "finetuning"],
    ["ray"],
    ["cli"],
    ["__main__"],
]
MOST_ROOT_FILES = 12  # Python files that lie directly in `sspsam/`


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, **environment},
        timeout=300,
        check=False,
    )


def imported_modules(path: Path) -> set[str]:
    """Dotted names below `sspsam` of the modules that a file imports, at any depth of its code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "sspsam":
            folder = PACKAGE / Path(*node.module.split(".")[1:])
            for alias in node.names:
                is_module = (folder / f"{alias.name}.py").exists() or (folder / alias.name / "__init__.py").exists()
                found.add(f"{node.module}.{alias.name}" if is_module else node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.partition(".")[0] == "sspsam")
    return {name.removeprefix("sspsam").removeprefix(".") for name in found}


def modules() -> dict[str, set[str]]:
    """Every module of the package, by its dotted name below `sspsam`, with the modules that it imports."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): imported_modules(path)
        for path in PACKAGE.rglob("*.py")
    }


def test_imports_between_rooms_go_one_way() -> None:
    level = {room: number for number, row in enumerate(ROOM_ORDER) for room in row}
    for name, imported in modules().items():
        room = name.partition(".")[0]
        if name == "__init__":
            continue  # it imports lazily, by name
        assert room in level, f"say in ROOM_ORDER where {room} stands"
        for other in {each.partition(".")[0] for each in imported} - {room, ""}:
            assert level[other] < level[room], f"{name} must not import {other}"


def test_no_modules_of_a_room_import_each_other_in_a_circle() -> None:
    imports = modules()
    done: set[str] = set()

    def visit(name: str, chain: tuple[str, ...]) -> None:
        assert name not in chain, f"imports in a circle: {' -> '.join((*chain, name))}"
        if name not in done:
            for other in imports.get(name, set()) - {name, ""}:
                visit(other, (*chain, name))
            done.add(name)

    for name in imports:
        if name != "__init__":
            visit(name, ())


def test_few_modules_lie_flat_in_the_package() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_ROOT_FILES


def test_importing_the_package_loads_nothing_heavy() -> None:
    done = run("""
        import sys
        before = set(sys.modules)
        import sspsam
        heavy = {"torch", "numpy", "PIL", "open_clip", "segment_anything", "huggingface_hub", "safetensors", "click"}
        loaded = heavy & {name.partition(".")[0] for name in set(sys.modules) - before}
        assert not loaded, loaded
    """)
    assert done.returncode == 0, done.stderr


def test_documented_submodules_are_there_after_importing_the_package_alone() -> None:
    done = run("""
        import sys
        import sspsam
        assert not [name for name in sys.modules if name.startswith("sspsam.") and name != "sspsam._version"]
        assert callable(sspsam.shapes.draw_scene)
        assert "torch" not in sys.modules
        assert issubclass(sspsam.errors.SSPSAMError, Exception)
        assert callable(sspsam.hub.resolve)
        assert callable(sspsam.batch.run_batch)
        assert callable(sspsam.convert.convert_checkpoint)
        assert callable(sspsam.ray.run_batch_on_ray)
    """)
    assert done.returncode == 0, done.stderr


def test_every_module_of_the_reference_is_there_after_importing_the_package_alone() -> None:
    pages = (Path(__file__).parents[1] / "docs" / "reference").glob("*.md")
    named = {name for page in pages for name in re.findall(r"auto\w+:: sspsam\.([a-z]\w*)", page.read_text())}
    assert {"config", "evaluation", "finetuning", "identity", "models", "serving"} <= named
    done = run(f"""
        import sspsam
        assert all(getattr(sspsam, name).__name__ == f"sspsam.{{name}}" for name in {sorted(named)})
    """)
    assert done.returncode == 0, done.stderr


def test_public_names_are_there_and_others_are_named_in_the_error() -> None:
    for name in sspsam.__all__:
        assert getattr(sspsam, name) is not None
    assert set(sspsam.__all__) == set(dir(sspsam))
    with pytest.raises(AttributeError, match=r"SSPSAMPredictor.*modules are .*evaluation"):
        sspsam.nothing  # noqa: B018
    assert (PACKAGE / "py.typed").exists()


def test_help_is_quick_because_it_imports_neither_torch_nor_numpy() -> None:
    done = run("""
        import sys
        from sspsam.cli import main
        try:
            main(["--help"], prog_name="sspsam")
        except SystemExit as stop:
            assert stop.code == 0
        assert not {"torch", "numpy", "PIL", "huggingface_hub"} & set(sys.modules)
    """)
    assert done.returncode == 0, done.stderr
    assert "segment" in done.stdout


def test_import_and_a_local_checkpoint_open_no_socket_and_start_no_process(tiny_model: Path) -> None:
    done = run(f"""
        import sys
        def forbid(event, arguments):
            if event.startswith(("socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess", "os.system")):
                raise RuntimeError(f"{{event}} {{arguments}}")
        import torch, torchvision  # what these do is their own affair
        sys.addaudithook(forbid)
        import numpy as np
        from sspsam import SSPSAMPredictor
        predictor = SSPSAMPredictor.from_pretrained({str(tiny_model)!r}, device="cpu")
        predictor.predict("a cat", image=np.zeros((20, 30, 3), np.uint8))
    """)
    assert done.returncode == 0, done.stderr


def test_import_and_use_change_nothing_global(tiny_model: Path, tmp_path: Path) -> None:
    done = run(f"""
        import contextlib, locale, logging, os, random, signal, socket, sys, threading, warnings
        import numpy as np
        import PIL.Image, PIL.ImageFile
        import torch
        with contextlib.suppress(ImportError):
            import rich.style  # draws random numbers when it is imported, as httpx does where rich is installed

        def state():
            return {{
                "environment": dict(os.environ),
                "directory": os.getcwd(),
                "warnings": list(warnings.filters),
                "root logger": (logging.root.level, list(logging.root.handlers), logging.root.disabled),
                "pillow": (PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES),
                "random": random.getstate(),
                "numpy random": str(np.random.get_state()),
                "numpy errors": np.geterr(),
                "torch random": torch.get_rng_state().tolist(),
                "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
                "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32,
                         torch.get_float32_matmul_precision()),
                "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
                "deterministic": torch.are_deterministic_algorithms_enabled(),
                "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
                "defaults": (torch.get_default_dtype(), str(torch.get_default_device())),
                "autocast": torch.is_autocast_enabled("cpu"),
                # torch adds its own when its distributed part is imported
                "safe globals": [g for g in torch.serialization.get_safe_globals() if "torch" not in str(g)],
                "signals": {{s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}},
                "hooks": (sys.excepthook, sys.displayhook, threading.excepthook),
                "locale": locale.setlocale(locale.LC_ALL),
                "socket timeout": socket.getdefaulttimeout(),
                "python threads": threading.active_count(),
                "sys.path": list(sys.path),
                "recursion": sys.getrecursionlimit(),
            }}

        torch.zeros(2, 2) @ torch.zeros(2, 2)
        before = state()
        import sspsam
        from sspsam import SSPSAMPredictor
        from sspsam.checkpoints.convert import convert_checkpoint
        convert_checkpoint({str(tiny_model.with_suffix(".pth"))!r}, {str(tmp_path / "out")!r})
        predictor = SSPSAMPredictor.from_pretrained({str(tmp_path / "out")!r}, device="cpu", dtype="bfloat16")
        predictor.set_image(np.zeros((20, 30, 3), np.uint8))
        predictor.predict(["a cat", "word " * 100], explain=True, return_logits="full")[0].overlay()
        predictor.save_pretrained({str(tmp_path / "out")!r})
        try:
            predictor.set_image(b"bad")
        except ValueError:
            pass
        after = state()
        changed = [name for name in before if before[name] != after[name]]
        assert not changed, {{name: (before[name], after[name]) for name in changed}}
    """)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif("SSPSAM_TEST_INSTALLED" not in os.environ, reason="only where the built package is tested")
def test_it_is_the_installed_package_that_is_tested() -> None:
    assert "site-packages" in PACKAGE.parts
    assert not PACKAGE.is_relative_to(Path(__file__).parents[1])
