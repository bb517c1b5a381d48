"""The subsets of PhraseCut's tasks, from the files of the data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sspsam.errors import DatasetError
from sspsam.evaluation.datasets.checks import checked_list, checked_object, read_json
from sspsam.evaluation.datasets.entry import Entry
from sspsam.evaluation.datasets.places import PLACES, Request
from sspsam.evaluation.metrics import Metrics
from sspsam.evaluation.phrasecut import Subsets, Words, phrasecut_metrics
from sspsam.evaluation.records import Record
from sspsam.utils.paths import shown


@dataclass(frozen=True)
class TaskSubsets:
    """The tasks of a split in their order, and the rules that sort them into subsets."""

    rules: Subsets
    tasks: Sequence[dict[str, Any]]

    @classmethod
    def read(cls, data_root: Path, split: str, words: Path | None) -> Self:
        """Read the files of the data set.

        Args:
            data_root: see `read_dataset`.
            split: see `read_dataset`.
            words: `utils/subset.py` of the PhraseCutDataset repository; None: without the subsets that need it.

        Raises:
            DatasetMissingError: a file is missing.
            DatasetError, EvaluationError: a file is malformed.
        """
        request = Request("phrasecut", split, "", data_root, None, PLACES["phrasecut"])
        image_files = ("image_data_split3000.json", "image_data_split.json")
        names = [f"refer_{part}.json" for part in split.split("_")]
        counts, images, *files = request.files("name_att_rel_count.json", image_files, *names)
        lists = None if words is None else Words.read(words)
        try:
            rules = Subsets.of(checked_object(read_json(counts), shown(counts)), read_json(images), lists)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, DatasetError):
                raise
            raise DatasetError(f"{shown(counts)} or {shown(images)} is malformed: {error!r:.80}") from error
        return cls(rules, [task for path in files for task in checked_list(read_json(path), shown(path))])

    def metrics(self, records: Sequence[Record], entries: Sequence[Entry]) -> Metrics:
        """Return the metrics of the protocol `phrasecut` with those of each subset.

        Raises:
            DatasetError: a task lacks what decides its subsets.
        """
        subsets = {record.index: self._of(record, entries[record.index]) for record in records}
        return phrasecut_metrics(records, subsets)

    def _of(self, record: Record, entry: Entry) -> list[str]:
        try:
            share = record.target_area / (entry.size[0] * entry.size[1])
            return self.rules.of_task(self.tasks[record.index], share)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise DatasetError(
                f"phrasecut: task {shown(entry.key)} lacks {error}, which decides its subsets"
            ) from error
