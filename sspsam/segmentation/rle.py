"""COCO's compressed run-length encoding of masks.

The format is that of pycocotools (`rleToString` in maskApi.c): the mask is read column by column; runs of zeros and
ones alternate, zeros first; from the third run on, the difference to the run two before is stored; five bits a
character with a continuation bit, from character 48 on.
"""

from typing import cast

import numpy as np
from numpy.typing import NDArray


def rle_encode(mask: NDArray[np.bool_]) -> dict[str, list[int] | str]:
    """Encode an (h, w) mask.

    Returns:
        `{"size": [h, w], "counts": "..."}`.
    """
    flat = np.asarray(mask, dtype=np.bool_).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    runs = np.diff(edges).tolist()
    if flat.size and flat[0]:
        runs = [0, *runs]
    characters: list[str] = []
    for index, run in enumerate(runs):
        value = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            bits = value & 31
            value >>= 5  # arithmetic shift: the sign stays
            more = value != (-1 if bits & 16 else 0)
            characters.append(chr(48 + (bits | 32 if more else bits)))
    return {"size": [int(side) for side in mask.shape], "counts": "".join(characters)}


def rle_decode(rle: dict[str, list[int] | str]) -> NDArray[np.bool_]:
    """Decode the output of `rle_encode` to an (h, w) mask."""
    size, runs = cast(list[int], rle["size"]), rle_runs(cast(str, rle["counts"]))
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(size, order="F")


def rle_runs(counts: str) -> list[int]:
    """Return the lengths of the runs of zeros and ones, zeros first, without allocating the mask."""
    runs: list[int] = []
    position = 0
    while position < len(counts):
        value = shift = 0
        more = True
        while more:
            code = ord(counts[position]) - 48
            value |= (code & 31) << shift
            more, shift, position = bool(code & 32), shift + 5, position + 1
            if not more and code & 16:
                value |= -1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs
