"""The Dockerfile: what a linter says, and what it copies."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "Dockerfile"


def hadolint() -> str | None:
    return shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")


@pytest.mark.skipif(hadolint() is None, reason="hadolint is not installed")
def test_the_linter_has_nothing_to_say() -> None:
    done = subprocess.run([hadolint() or "", str(DOCKERFILE)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_everything_that_is_copied_exists_and_is_sent_to_the_builder() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = [line.split()[1:-1] for line in DOCKERFILE.read_text().splitlines() if line.startswith("COPY ")]
    copied = {name for names in copies for name in names}
    assert copied == sent
    assert all((ROOT / name).exists() for name in copied - {"sspsam"})


def test_the_container_has_no_rights_checks_its_health_and_names_the_flags_of_the_command() -> None:
    text = DOCKERFILE.read_text()
    assert text.index("USER 10001") < text.index("ENTRYPOINT")
    assert "HEALTHCHECK" in text
    assert "/healthz" in text
    assert "exec sspsam serve" in text  # the server itself gets SIGTERM, not a shell
    assert not any(line.split()[1].count("/") for line in text.splitlines() if line.startswith("FROM "))
