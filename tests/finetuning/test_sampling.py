"""The batches of a training."""

import numpy as np

from sspsam.finetuning.examples import Example
from sspsam.finetuning.negatives import Negatives, foreign_phrases
from sspsam.finetuning.sampling import Sampler
from sspsam.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer(77, "{}.")


def examples(count: int, name: str = "image") -> list[Example]:
    return [Example(f"{name} {n}", "a cat", TOKENIZER("a cat"), None, None) for n in range(count)]


def sampler(**changes: object) -> Sampler:
    negatives = Negatives.of(["a dog", "the chair"], TOKENIZER, 0.5)
    options: dict[str, object] = {"batch_size": 10, "rehearsal": 0.3, "seed": 0} | changes
    return Sampler(examples(14), examples(9, "old"), negatives, **options)  # type: ignore[arg-type]


def images(batch: list[Example], name: str) -> list[str]:
    return [example.image for example in batch if example.image.startswith(name) and example.text == "a cat"]


def test_a_batch_depends_on_the_seed_and_the_step_alone() -> None:
    first, again = sampler(), sampler()
    again.batch(7)
    assert [(e.image, e.text) for e in first.batch(3)] == [(e.image, e.text) for e in again.batch(3)]
    assert images(first.batch(3), "image") != images(sampler(seed=1).batch(3), "image")


def test_every_example_is_seen_once_in_an_epoch_and_the_order_changes() -> None:
    batches = [sampler(batch_size=11, rehearsal=0.24).batch(step) for step in range(4)]
    seen = [image for batch in batches for image in images(batch, "image")]
    assert len(seen) == 28
    assert sorted(seen[:14]) == sorted(seen[14:])
    assert len(set(seen[:14])) == 14
    assert seen[:14] != seen[14:]


def test_rehearsal_has_its_share_and_is_left_out_where_there_is_none() -> None:
    assert len(images(sampler(rehearsal=0.2).batch(0), "old")) == 3  # of 10 and about 5 negatives
    alone = Sampler(examples(4), [], None, batch_size=10, rehearsal=0.3, seed=0)
    assert len(alone.batch(0)) == 10


def test_about_half_of_the_images_get_a_foreign_phrase_without_a_target() -> None:
    counts = [sum(example.text != "a cat" for example in sampler().batch(step)) for step in range(40)]
    assert 3.5 < float(np.mean(counts)) < 6.5
    assert all(e.box is None and e.coverage is None for e in sampler().batch(0) if e.text != "a cat")


def test_foreign_phrases_share_no_word_with_the_expressions_of_the_user() -> None:
    phrases = foreign_phrases(["the brown dog on the left"], TOKENIZER)
    assert not [phrase for phrase in phrases if "dog" in phrase.split()]
    assert "the chair" in phrases
