"""gRefCOCO: expressions for one, several or no objects, as G_REFER of ReLA reads them."""

from collections.abc import Iterator

from sspsam.errors import DatasetError
from sspsam.evaluation.datasets.entry import Entry
from sspsam.evaluation.datasets.instances import Instances, ObjectRecord, hull
from sspsam.evaluation.datasets.masks import COCOMask
from sspsam.evaluation.datasets.places import Request
from sspsam.evaluation.datasets.refs import Ref, expressions, read_refs
from sspsam.utils.paths import shown

_NO_TARGET = (-1,)


def entries(request: Request) -> Iterator[Entry]:
    """Yield the entries of a split in the order of the file.

    The mask is the union of all annotations but crowds; the box is the hull of the boxes of all annotations, crowds
    too, as the authors of SSP-SAM prepare it.

    Raises:
        DatasetError: there is no such split, or the annotations are malformed.
        DatasetMissingError: a file is missing.
    """
    name = f"grefs({request.split_by})"
    refs_path, instances_path = request.files((f"{name}.p", f"{name}.json"), "instances.json")
    refs = read_refs(refs_path)
    splits = list(dict.fromkeys(ref.split for ref in refs))
    if request.split not in splits:
        raise DatasetError(
            f"{shown(refs_path)} has no split {request.split!r}: it has {', '.join(map(shown, splits)) or 'none'}"
        )
    instances, folder = Instances(instances_path), request.image_folder
    for ref, key, text in expressions([ref for ref in refs if ref.split == request.split]):
        image = instances.image(ref.image_id, ref.where)
        targets = _targets(ref, instances, image.size)
        yield Entry(
            image=folder / image.file_name,
            image_id=str(ref.image_id),
            size=image.size,
            text=text,
            no_target=not targets,
            box=hull([target.box for target in targets]) if targets else None,
            key=key,
            source=COCOMask(tuple(target.segmentation for target in targets if not target.is_crowd), ref.where),
        )


def _targets(ref: Ref, instances: Instances, size: tuple[int, int]) -> list[ObjectRecord]:
    if ref.ann_ids == _NO_TARGET:
        return []
    if not ref.ann_ids:
        raise DatasetError(f"{ref.where} has an empty 'ann_id': an expression without a target has [-1]")
    return [instances.object(ann_id, ref.image_id, size, ref.where) for ann_id in ref.ann_ids]
