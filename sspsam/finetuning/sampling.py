"""The examples of each step, a function of the seed and the number of the step alone.

A training that is resumed therefore needs no position in the data and no state of a random generator besides the number
of its step, and every process knows the whole batch.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from sspsam.finetuning.examples import Example
from sspsam.finetuning.negatives import Negatives

_Item = TypeVar("_Item")
_NEW, _OLD, _NEGATIVE = range(3)  # streams of random numbers


class Sampler:
    """Batches of new examples, rehearsal and negatives.

    Args:
        new: examples to learn; each is seen once in an epoch.
        old: examples for rehearsal; none: the whole batch is new.
        negatives: foreign phrases; None: no negatives.
        batch_size: examples of a batch, without negatives.
        rehearsal: share of the old examples in the batch with its negatives.
        seed: of every draw.
    """

    def __init__(
        self,
        new: Sequence[Example],
        old: Sequence[Example],
        negatives: Negatives | None,
        *,
        batch_size: int,
        rehearsal: float,
        seed: int,
    ) -> None:
        self._new, self._old, self._negatives, self._seed = new, old, negatives, seed
        with_negatives = batch_size * (1.0 if negatives is None else 1.0 + negatives.share)
        self._old_per_step = min(round(rehearsal * with_negatives), batch_size - 1) if old else 0
        self.new_per_step = batch_size - self._old_per_step

    def steps(self, epochs: float) -> int:
        """Return the number of steps in which every new example is seen so many times."""
        return max(1, round(epochs * len(self._new) / self.new_per_step))

    def batch(self, step: int) -> list[Example]:
        """Return the examples of a step, from 0."""
        examples = self._taken(self._new, step, self.new_per_step, _NEW)
        examples += self._taken(self._old, step, self._old_per_step, _OLD)
        if self._negatives is None:
            return examples
        images = list(dict.fromkeys(example.image for example in examples))
        return examples + self._negatives.examples(images, np.random.default_rng([self._seed, _NEGATIVE, step]))

    def _taken(self, items: Sequence[_Item], step: int, count: int, stream: int) -> list[_Item]:
        """Return the items of a step from an endless sequence of shuffled epochs."""
        taken = []
        for position in range(step * count, (step + 1) * count):
            epoch, place = divmod(position, len(items))
            taken.append(items[int(self._order(len(items), epoch, stream)[place])])
        return taken

    def _order(self, count: int, epoch: int, stream: int) -> np.ndarray:
        return np.random.default_rng([self._seed, stream, epoch]).permutation(count)
