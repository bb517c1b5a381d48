"""Subsets of PhraseCut's tasks, and the metrics of each, as the evaluator of its authors counts them."""

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from sspsam.errors import EvaluationError
from sspsam.evaluation.metrics import THRESHOLDS, Metrics, compute_metrics, threshold_key
from sspsam.evaluation.protocols import PHRASECUT
from sspsam.evaluation.records import Record
from sspsam.utils.paths import shown, user_path

_SMALL, _LARGE = 0.02, 0.2  # share of the image that the target covers
_TYPES: Final = {"name": "p_name", "attribute": "p_att+", "relation": "p_rel+", "verbose": "p_verbose"}
# kinds of attributes, by the names that the authors' lists of words have in `utils/subset.py`
_ATTRIBUTE_KINDS: Final = ("color", "shape", "material", "texture", "state", "adj", "noun", "loc", "count", "bad")


@dataclass(frozen=True)
class Words:
    """Words that decide some of the subsets.

    Args:
        coco: names of COCO's categories, for `c_coco`.
        stuff: parts of names that are stuff, for `t_stuff` and `t_obj`.
        attributes: the attributes of each kind, for `a_color` and the others.
    """

    coco: frozenset[str]
    stuff: tuple[str, ...]
    attributes: Mapping[str, frozenset[str]]

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read the lists from `utils/subset.py` of the PhraseCutDataset repository; nothing of the file is run.

        Raises:
            EvaluationError: the file cannot be read or lacks a list.
        """
        lists = _lists_of(user_path(path, "the lists of words", EvaluationError))
        names = ["coco", "stuff_names", *(f"att_{kind}" for kind in _ATTRIBUTE_KINDS)]
        missing = [name for name in names if name not in lists]
        if missing:
            raise EvaluationError(
                f"{shown(path)} lacks {', '.join(missing)}: use utils/subset.py of "
                "https://github.com/ChenyunWu/PhraseCutDataset"
            )
        attributes = {kind: frozenset(lists[f"att_{kind}"]) for kind in _ATTRIBUTE_KINDS}
        return cls(frozenset(lists["coco"]), tuple(lists["stuff_names"]), attributes)


def _lists_of(path: Path) -> dict[str, list[str]]:
    """Return the lists of texts that a Python file assigns to names at its top level."""
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        raise EvaluationError(f"the lists of words {shown(path)} cannot be read: {error}") from error
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List) and isinstance(node.targets[0], ast.Name):
            elements = [item.value for item in node.value.elts if isinstance(item, ast.Constant)]
            found[node.targets[0].id] = [element for element in elements if isinstance(element, str)]
    return found


@dataclass(frozen=True)
class Subsets:
    """Rules that sort tasks into subsets.

    Args:
        category_ranks: rank of each category by its frequency, from 0, from `name_att_rel_count.json`.
        attribute_ranks: the same of each attribute.
        coco_images: identifiers of the images that are also in COCO, from `image_data_split.json`.
        words: lists of words; None: without the subsets that need them (`c_coco`, `t_*`, and `a_color` and the others).
    """

    category_ranks: Mapping[str, int]
    attribute_ranks: Mapping[str, int]
    coco_images: frozenset[int]
    words: Words | None = None

    @classmethod
    def of(cls, counts: Mapping[str, Any], images: Iterable[Mapping[str, Any]], words: Words | None = None) -> Self:
        """Make the rules from the parsed `name_att_rel_count.json` and `image_data_split.json`."""
        coco = frozenset(int(image["image_id"]) for image in images if image.get("coco_id"))
        return cls(_ranks(counts["cat"]), _ranks(counts["att"]), coco, words)

    def of_task(self, task: Mapping[str, Any], relative_size: float) -> list[str]:
        """Return the names of the subsets that a task belongs to.

        Args:
            task: of `refer_<split>.json`.
            relative_size: share of the image that the drawn truth covers.
        """
        structure, ranks = task["phrase_structure"], self.attribute_ranks
        name, attributes, relations = (structure[key] for key in ("name", "attributes", "relation_descriptions"))
        return [
            "all",
            "d_cocotv" if task["image_id"] in self.coco_images else "d_notcocotv",
            *_rank_subsets("c", self.category_ranks.get(name, 500), (20, 100, 500)),
            *_rank_subsets(
                "a", min((ranks.get(attribute, 200) for attribute in attributes), default=200), (20, 100, 200)
            ),
            *_instance_subsets(len(task["instance_boxes"])),
            *_phrase_subsets(len(attributes), len(relations), structure.get("type")),
            "s_small" if relative_size < _SMALL else "s_large" if relative_size > _LARGE else "s_mid",
            *([] if self.words is None else _word_subsets(self.words, name, attributes)),
        ]


def _ranks(counts: Sequence[Sequence[Any]]) -> dict[str, int]:
    """Return the first position of each name in a list of names and counts."""
    ranks: dict[str, int] = {}
    for rank, (name, *_) in enumerate(counts):
        ranks.setdefault(name, rank)
    return ranks


def _rank_subsets(letter: str, rank: int, limits: tuple[int, int, int]) -> list[str]:
    """Return for example `c21-100`, `c100` and `c500` for the rank 20, counted from 0."""
    first, second, third = limits
    bands = {first: f"{first}", second: f"{first + 1}-{second}", third: f"{second + 1}-{third}"}
    band = next((f"{letter}{name}" for limit, name in bands.items() if rank < limit), f"{letter}{third}+")
    wider = [f"{letter}{limit}" for limit in (second, third) if rank < limit]
    return [band, *wider]


def _instance_subsets(instances: int) -> list[str]:
    return ["i_many" if instances >= 5 else "i_multi" if instances > 1 else "i_single"] if instances else []


def _phrase_subsets(attributes: int, relations: int, kind: object) -> list[str]:
    conditions = {
        "p_att": attributes > 0,
        "p_attm": attributes > 1,
        "p_rel": relations > 0,
        "p_relm": relations > 1,
        "p_att_rel": attributes > 0 and relations > 0,
    }
    typed = [_TYPES[str(kind)]] if kind in _TYPES else []
    return [name for name, holds in conditions.items() if holds] + typed


def _word_subsets(words: Words, name: str, attributes: Sequence[str]) -> list[str]:
    stuff = "t_stuff" if any(part in name for part in words.stuff) else "t_obj"
    kinds = [f"a_{kind}" for kind, members in words.attributes.items() if not members.isdisjoint(attributes)]
    return [stuff, *(["c_coco"] if name in words.coco else []), *kinds]


def phrasecut_metrics(records: Sequence[Record], subsets: Mapping[int, Sequence[str]]) -> Metrics:
    """Compute the metrics of all tasks and of each subset.

    Args:
        records: of all tasks, with records of `missing_record` for those without a prediction.
        subsets: the names of the subsets of each task, by the index of its record.

    Returns:
        The metrics of the protocol, and for each subset with an evaluated task `subset/<name>/n`, `/mIoU`, `/oIoU` and
        `/Pr@<threshold>`; tasks without a prediction are in no subset.
    """
    metrics = compute_metrics(records, PHRASECUT)
    members: dict[str, list[Record]] = {}
    for record in records:
        for name in subsets[record.index] if not record.missing else ():
            members.setdefault(name, []).append(record)
    for name, chosen in sorted(members.items()):
        numbers = compute_metrics(chosen, PHRASECUT)
        keys = ["n", "mIoU", "oIoU", *(threshold_key("Pr", threshold) for threshold in THRESHOLDS)]
        metrics |= {f"subset/{name}/{key}": numbers[key] for key in keys}
    return metrics
