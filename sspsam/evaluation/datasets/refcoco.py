"""RefCOCO, RefCOCO+, RefCOCOg and RefCLEF (ReferIt), as refer.py reads them."""

from collections.abc import Iterator
from typing import Final

from sspsam.errors import DatasetError
from sspsam.evaluation.datasets.entry import Entry
from sspsam.evaluation.datasets.instances import Instances
from sspsam.evaluation.datasets.masks import COCOMask
from sspsam.evaluation.datasets.places import Request
from sspsam.evaluation.datasets.refs import Ref, expressions, read_refs

_BY_LETTER: Final = ("testA", "testB", "testC")  # every split with the letter, such as testAB for testA
_EXACT: Final = ("train", "val", "testAB", "testBC", "testAC")
SPLITS: Final = (*_EXACT[:2], "test", *_BY_LETTER, *_EXACT[2:])


def entries(request: Request) -> Iterator[Entry]:
    """Yield the entries of a split in the order of the file.

    Raises:
        DatasetError: there is no such split, or the annotations are malformed.
        DatasetMissingError: a file is missing.
    """
    if request.split not in SPLITS:
        raise DatasetError(
            f"{request.dataset} has no split {request.split!r}: refer.py knows {', '.join(SPLITS)}; "
            "splits are evaluated one by one"
        )
    refs_path, instances_path = request.files(f"refs({request.split_by}).p", "instances.json")
    refs = [ref for ref in read_refs(refs_path) if is_in_split(ref.split, request.split)]
    instances, folder = Instances(instances_path), request.image_folder
    for ref, key, text in expressions(refs):
        image = instances.image(ref.image_id, ref.where)
        target = instances.object(_only_annotation(ref), ref.image_id, image.size, ref.where)
        yield Entry(
            image=folder / image.file_name,
            image_id=str(ref.image_id),
            size=image.size,
            text=text,
            no_target=False,
            box=target.box,
            key=key,
            source=COCOMask((target.segmentation,), ref.where),
        )


def is_in_split(label: str, split: str) -> bool:
    """Return whether refer.py counts a record with the split `label` to `split`."""
    if split in _BY_LETTER:
        return split[-1] in label
    return "test" in label if split == "test" else label == split


def _only_annotation(ref: Ref) -> int | str:
    if len(ref.ann_ids) != 1:
        raise DatasetError(f"{ref.where} must refer to one annotation, not to {len(ref.ann_ids)}")
    return ref.ann_ids[0]
