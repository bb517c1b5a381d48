"""The user's lines, checked all at once and split by image."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from sspsam.errors import FinetuningError
from sspsam.finetuning.checks import CheckedData, CheckedLine, check_lines
from sspsam.finetuning.expressions import same_words
from sspsam.finetuning.job import FinetuneJob
from sspsam.finetuning.lines import DataSource, read_lines
from sspsam.finetuning.options import FinetuneOptions
from sspsam.finetuning.reporting import Message
from sspsam.messages import OptionMessage, argument
from sspsam.text.tokenizer import Tokenizer
from sspsam.utils.paths import shown_repr


@dataclass(frozen=True, eq=False)
class SplitLines:
    """The user's lines after the checks and the split, which is by image.

    Args:
        train: to learn from.
        held_out: about other images, which never train.
        rehearsal: about what the model knows, to be repeated.
        known: about what the model knows, held out.
        left_out: number of lines with problems and of repetitions.
    """

    train: list[CheckedLine]
    held_out: list[CheckedLine]
    rehearsal: list[CheckedLine]
    known: list[CheckedLine]
    left_out: int

    @property
    def all_texts(self) -> list[str]:
        """Every expression."""
        return [line.entry.text for line in self.every]

    @property
    def every(self) -> list[CheckedLine]:
        """All lines."""
        return [*self.train, *self.held_out, *self.rehearsal, *self.known]


def split_lines(
    job: FinetuneJob, options: FinetuneOptions, tokenizer: Tokenizer, say: Message, show: bool
) -> SplitLines:
    """Read, check and split all lines, and report every problem at once.

    Args:
        job: with the lines.
        options: share of the images that are held out, and the seed.
        tokenizer: of the model.
        say: shows a line.
        show: whether to show bars.

    Raises:
        LinesError: lines have problems.
        FinetuningError: there is too little data, or a phrase that refers to nothing has a target in the lines.
    """

    def check(data: DataSource) -> CheckedData:
        return check_lines(read_lines(data), tokenizer, show=show)

    checked = check(job.data)
    rehearsal = None if job.rehearsal is None else check(job.rehearsal)
    given = None if job.held_out is None else check(job.held_out)
    every = [data for data in (checked, rehearsal, given) if data is not None]
    for remark in (remark for data in every for remark in data.remarks):
        say(remark)
    problems = [problem for data in every for problem in data.problems]
    if problems and not job.skip_problems:
        CheckedData([], problems, 0).require_no_problems()
    if problems:
        say(f"{len(problems):,} lines with problems are left out; the first: {problems[0]}")
    for note in checked.notes():
        say(note)
    if given is None:
        train, held_out = split_by_image(checked.lines, options.held_out_share, options.seed)
    else:
        held_out = given.lines
        train = _without_images(checked.lines, held_out, say)
    old, known = ([], []) if rehearsal is None else split_by_image(rehearsal.lines, 0.2, options.seed)
    old = _without_images(old, held_out, say)
    training_images = {line.image for line in (*train, *old)}
    known = [line for line in known if line.image not in training_images]
    if not train or not held_out:
        raise FinetuningError("there must be lines to learn from, and lines about other images that are held out")
    _check_negatives(job.negatives or (), [*train, *held_out, *old, *known])
    images = len({line.image for line in held_out})
    say(
        f"{len(train):,} lines about {len({line.image for line in train}):,} images to learn from; "
        f"{len(held_out):,} about {images:,} other images are held out (seed {options.seed}) and never train"
    )
    return SplitLines(train, held_out, old, known, len(problems) + checked.duplicates)


def split_by_image(
    lines: Sequence[CheckedLine], share: float, seed: int
) -> tuple[list[CheckedLine], list[CheckedLine]]:
    """Split lines into those to learn from and those that are held out, so that no image is on both sides.

    Args:
        lines: that were checked.
        share: of the images that are held out, at least one.
        seed: of the choice. An image's place in the order depends on its content and the seed alone, so that few
            images change sides where others are added.
    """
    images = sorted(
        {line.image for line in lines}, key=lambda image: hashlib.sha256(f"{seed} {image}".encode()).digest()
    )
    held_out = set(images[: min(len(images) - 1, max(1, math.ceil(share * len(images))))])
    return (
        [line for line in lines if line.image not in held_out],
        [line for line in lines if line.image in held_out],
    )


def _without_images(lines: list[CheckedLine], held_out: Sequence[CheckedLine], say: Message) -> list[CheckedLine]:
    """Return the lines about other images than those that are held out."""
    images = {line.image for line in held_out}
    kept = [line for line in lines if line.image not in images]
    if len(kept) < len(lines):
        say(f"{len(lines) - len(kept):,} lines about held-out images are left out, so that no such image trains")
    return kept


def _check_negatives(phrases: Sequence[str], lines: Sequence[CheckedLine]) -> None:
    """Refuse phrases that contradict lines."""
    targets = {same_words(line.entry.text): line for line in lines if not line.entry.no_target}
    for phrase in phrases:
        line = targets.get(same_words(phrase))
        if line is not None:
            raise FinetuningError(
                OptionMessage(
                    f"{shown_repr(phrase)} is among the phrases that refer to nothing in any image, but has a target "
                    f"in {line.where}: take it out of ",
                    argument("negatives=", "--negatives"),
                )
            )
