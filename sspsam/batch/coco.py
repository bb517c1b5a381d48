"""Results of a batch as one COCO file; see `sspsam.segmentation.exports.coco` for its content.

The ids come from the manifest of the whole batch, so that the ids of different shards differ and their lists can be
concatenated.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from sspsam.batch.combined_output_names import COCO_BEGINNING
from sspsam.batch.manifest import Task
from sspsam.batch.records import Line, Shard
from sspsam.batch.result_lines import category_of, result_of
from sspsam.segmentation.exports.coco import CocoAnswer, CocoIds, ShapeOptions, coco_file

_INSTANCES_OF_A_SHARD: Final = 1_000_000_000  # ids that are reserved; the number of instances is not known in advance


def batch_coco_file(
    lines: Iterable[Line], tasks: Sequence[Task], options: ShapeOptions, shard: Shard
) -> Iterator[bytes]:
    """Yield the content of a COCO file in pieces, so that the whole file is never in memory.

    Args:
        lines: of `results.jsonl`; iterated over once.
        tasks: all tasks of the batch, other shards' tasks included.
        options: how masks become annotations.
        shard: number of this run.
    """
    ids = CocoIds(first_instance=(shard.number - 1) * _INSTANCES_OF_A_SHARD + 1)
    for task in tasks:
        ids.add(task.image, task.categories)
    return coco_file(map(_coco_answer, lines), ids, options, COCO_BEGINNING)


def _coco_answer(line: Line) -> CocoAnswer:
    return CocoAnswer(
        image=line["image"],
        width=line["width"],
        height=line["height"],
        number=line["number"],
        category=category_of(line),
        score=line["score"],
        mask=line["mask"],
        mask_box=line["mask_box"],
        load=lambda: result_of(line),
    )
