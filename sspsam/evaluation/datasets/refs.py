"""`refs(*.p)`, the list of referred objects and their expressions: refer.py's and G_REFER's format."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sspsam.evaluation.datasets.checks import (
    Identifier,
    checked_identifier,
    checked_list,
    checked_object,
    checked_text,
    member,
    read_json,
)
from sspsam.evaluation.datasets.entry import unique_key
from sspsam.evaluation.datasets.safe_pickle import read_pickle
from sspsam.utils.paths import shown


@dataclass(frozen=True)
class Ref:
    """Expressions about the same objects of an image.

    Args:
        ref_id: of this record.
        image_id: of the image.
        ann_ids: annotations of the objects; in gRefCOCO (-1,) stands for none.
        split: as in the file.
        sentences: id and text of each expression.
        where: file and entry, for errors.
    """

    ref_id: Identifier
    image_id: Identifier
    ann_ids: tuple[Identifier, ...]
    split: str
    sentences: tuple[tuple[Identifier, str], ...]
    where: str


def read_refs(path: Path) -> list[Ref]:
    """Read all records of a pickle, or of a JSON file (`.json`), in their order.

    Raises:
        UnsafePickleError: the pickle names a class or function.
        DatasetError: the file is malformed; the message names file and entry.
    """
    content = read_json(path) if path.suffix == ".json" else read_pickle(path)
    return [
        _ref(value, f"{shown(path)}: entry {index}") for index, value in enumerate(checked_list(content, shown(path)))
    ]


def expressions(refs: list[Ref]) -> Iterator[tuple[Ref, str, str]]:
    """Yield each expression as its record, a unique key and the text."""
    counts: dict[str, int] = {}
    for ref in refs:
        for sent_id, text in ref.sentences:
            yield ref, unique_key(f"{ref.ref_id}/{sent_id}", counts), text


def _ref(value: Any, where: str) -> Ref:
    record = checked_object(value, where)
    ref_id = member(record, "ref_id", checked_identifier, where)
    where = f"{where} (ref_id {ref_id!r})"
    return Ref(
        ref_id,
        member(record, "image_id", checked_identifier, where),
        member(record, "ann_id", _ann_ids, where),
        member(record, "split", checked_text, where),
        tuple(
            _sentence(sentence, f"{where}: sentence {index}")
            for index, sentence in enumerate(member(record, "sentences", checked_list, where))
        ),
        where,
    )


def _ann_ids(value: Any, where: str) -> tuple[Identifier, ...]:
    return tuple(checked_identifier(each, where) for each in (value if isinstance(value, list) else [value]))


def _sentence(value: Any, where: str) -> tuple[Identifier, str]:
    sentence = checked_object(value, where)
    return member(sentence, "sent_id", checked_identifier, where), member(sentence, "sent", checked_text, where)
