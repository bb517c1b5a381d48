"""The state of a training on disk."""

from pathlib import Path

import pytest
import torch

from sspsam.errors import FinetuningError
from sspsam.finetuning.state import Log, Progress, RunFolder, SavedState, read_log


def test_a_folder_in_which_another_process_trains_is_refused_until_it_ends(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "unfinished") as first:
        first.lock()
        with (
            RunFolder(tmp_path / "unfinished") as second,
            pytest.raises(FinetuningError, match="another process trains"),
        ):
            second.lock()
    with RunFolder(tmp_path / "unfinished") as third:
        third.lock()


def test_incomplete_files_of_a_killed_process_are_removed_and_those_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "unfinished").mkdir()
    for folder in (tmp_path, tmp_path / "unfinished"):
        (folder / ".sspsam-0123456789ab.tmp").write_bytes(b"incomplete")
        (folder / "notes.tmp").write_bytes(b"of the user")
    with RunFolder(tmp_path / "unfinished") as folder_of_run:
        folder_of_run.lock()
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        *("notes.tmp", "unfinished/notes.tmp", "unfinished/lock"),
    }


def test_the_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    progress = Progress(step=3, best_step=2, best_score=0.5, sums={"dice": 1.25}, before={"held_out": {"mIoU": 0.1}})
    weights = {"a": torch.arange(3.0)}
    with RunFolder(tmp_path / "unfinished") as folder:
        assert folder.load() is None
        folder.lock()
        folder.save(SavedState("{}", progress, weights, {"state": {0: {"step": torch.tensor(3.0)}}}, {}))
        loaded = folder.load()
    assert loaded is not None
    assert (loaded.settings, loaded.progress) == ("{}", progress)
    assert torch.equal(loaded.weights["a"], weights["a"])


def test_a_state_of_another_version_is_refused(tmp_path: Path) -> None:
    content = {"version": 1, "settings": "", "progress": {}, "weights": {}, "optimizer": {}, "scaler": {}}
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(FinetuningError, match=r"state.pt is of another version of sspsam: start again"):
        RunFolder(tmp_path).load()


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"PK damaged")
    with pytest.raises(FinetuningError, match=r"state.pt cannot be read .*--overwrite"):
        RunFolder(tmp_path).load()
    for content in ([1], {"version": 2, "settings": "{}", "progress": {"steps of": 1}}, {"version": 2, "progress": 3}):
        torch.save(content, tmp_path / "state.pt")
        with pytest.raises(FinetuningError, match=r"state.pt cannot be read .*--overwrite"):
            RunFolder(tmp_path).load()


def test_older_best_weights_stay_until_the_state_refers_to_the_new_ones(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.save_best(2, {"a": torch.zeros(1)})
    folder.save_best(4, {"a": torch.ones(1)})
    assert float(folder.load_best(2)["a"]) == 0
    folder.remove_older_best(4)
    assert [path.name for path in tmp_path.iterdir()] == ["best-4.pt"]


def test_lines_of_the_log_after_the_saved_state_are_cut_off(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl", 0)
    log.write({"step": 1})
    length = log.length
    log.write({"step": 2})
    log.close()
    log = Log(tmp_path / "log.jsonl", length)
    log.write({"step": 3})
    log.close()
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1}, {"step": 3}]


@pytest.mark.parametrize("left", [b"", b'{"step": 1}\n', b'{"step": 1}\n{"st'])
def test_a_log_that_lost_its_end_keeps_its_complete_lines(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "log.jsonl").write_bytes(left)
    log = Log(tmp_path / "log.jsonl", 1000)
    log.write({"step": 9})
    log.close()
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == [1] * left.count(b"\n") + [9]
