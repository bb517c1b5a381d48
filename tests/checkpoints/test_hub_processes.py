"""Many processes that resolve one name at once, and processes killed while they download or convert."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sspsam import SSPSAMPredictor
from sspsam.checkpoints import converted
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.names import AUTHORS_REPOSITORY
from tests.support.hub import FakeHub
from tests.support.published import NAME

# imports once, forks a process for each line that it reads, and prints how the processes ended
FACTORY = """
import os, sys
from pathlib import Path
from sspsam import hub
from sspsam.checkpoints import converted
from sspsam.checkpoints import convert
from sspsam.checkpoints.hub_options import HubOptions
cache, log, name = sys.argv[1:4]
real = converted.convert_in_subprocess
def logged(checkpoint, out_dir, source, encoder_store):
    with open(log, "a") as file:
        file.write("converted\\n")
    real(checkpoint, out_dir, source, encoder_store)
converted.convert_in_subprocess = logged
children = []
for line in sys.stdin:
    child = os.fork() if line == "start\\n" else None
    if child == 0:
        hub.resolve(name, HubOptions(cache_dir=Path(cache)))
        os._exit(0)
    if child:
        children.append(child)
        print(child, flush=True)
    else:
        print(*[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], flush=True)
        children.clear()
"""


class Factory:
    """Starts processes that all resolve one name."""

    def __init__(self, cache: Path, log: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", FACTORY, str(cache), str(log), NAME],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=cache.parent,
        )

    def send(self, word: str) -> list[int]:
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return [int(number) for number in self.process.stdout.readline().split()]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def factory(tmp_path: Path) -> Iterator[Factory]:
    made = Factory(tmp_path / "cache", tmp_path / "log")
    yield made
    made.close()


def test_eight_processes_at_once_all_succeed_and_convert_once(hub, published, options, factory, tmp_path) -> None:
    for _ in range(8):
        factory.send("start")
    assert factory.send("wait") == [0] * 8
    assert (tmp_path / "log").read_text() == "converted\n"
    SSPSAMPredictor.from_pretrained(NAME, cache_dir=options.cache_dir, local_files_only=True, device="cpu", verify=True)


def kill_at_random_moments(hub: FakeHub, factory: Factory, options: HubOptions, kills: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    load = {"cache_dir": options.cache_dir, "device": "cpu", "verify": True}
    hub.delay = lambda: time.sleep(0.1)  # so that kills meet the download, too
    ended = []
    for _ in range(kills):
        [child] = factory.send("start")
        time.sleep(rng.uniform(0, 3))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        ended += factory.send("wait")
        if any(converted.conversions_of(AUTHORS_REPOSITORY, options)):
            # it was finished before the kill: the conversion must be good, and the next round starts from nothing
            SSPSAMPredictor.from_pretrained(NAME, local_files_only=True, **load)
            shutil.rmtree(options.cache_dir)
    assert set(ended) <= {0, -signal.SIGKILL}
    assert ended.count(-signal.SIGKILL) >= kills / 3  # the others had finished
    hub.delay = lambda: None
    SSPSAMPredictor.from_pretrained(NAME, **load)
    assert [path for path in (options.cache_dir / "sspsam-converted").rglob("*") if ".tmp" in path.name] == []


@pytest.mark.slow
def test_a_few_kills_at_random_moments_leave_a_cache_that_the_next_load_can_use(
    hub, published, options, factory
) -> None:
    kill_at_random_moments(hub, factory, options, kills=3, seed=1)


@pytest.mark.nightly
def test_thirty_kills_at_random_moments_leave_a_cache_that_the_next_load_can_use(
    hub, published, options, factory
) -> None:
    kill_at_random_moments(hub, factory, options, kills=30, seed=1)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_three_hundred_kills_at_random_moments_leave_a_cache_that_the_next_load_can_use(
    hub, published, options, factory
) -> None:
    kill_at_random_moments(hub, factory, options, kills=300, seed=2)
