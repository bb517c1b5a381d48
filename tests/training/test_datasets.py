"""Examples of drawn scenes, and the vocabulary of their expressions."""

import torch

from sspsam.shapes import ask, draw_scene
from tests.support.training import SMOKE
from training.datasets import ATTRIBUTES, PARSE_SIZES, SceneDataset
from training.vocabulary import Vocabulary


def test_the_vocabulary_knows_every_word_but_foreign_nouns(vocabulary: Vocabulary) -> None:
    def unknown_tokens(text: str) -> int:
        return int((vocabulary.encode(text) == 1).sum())

    questions = [question for seed in range(40) for question in ask(draw_scene(seed, (96, 96)), seed, 30)]
    foreign = [question.text for question in questions if "foreign" in question.kind]
    assert all(unknown_tokens(question.text) == 0 for question in questions if "foreign" not in question.kind)
    assert len(foreign) > 20
    assert all(unknown_tokens(text) for text in foreign)
    assert unknown_tokens("a dog") == 1
    assert unknown_tokens("the hovercraft left of the dog") >= 2


def test_the_tensors_of_an_example_agree_with_one_another(vocabulary: Vocabulary) -> None:
    dataset = SceneDataset(SMOKE.config, 5, 4, vocabulary, 10)
    for index in range(10):
        example = dataset[index]
        shapes = len(example.masks)
        side = SMOKE.architecture.sam.image_size // 2
        assert example.masks.shape == (shapes, side, side)
        assert example.masks.sum(dim=0).max() <= 256  # masks are disjoint
        assert example.patch_coverage.shape == (shapes, SMOKE.architecture.clip.grid**2)
        assert example.attributes[:, : ATTRIBUTES.index("small")].sum(dim=1).eq(2).all()  # one colour, one kind
        assert example.targets.shape == (len(example.token_ids), shapes) == example.candidates.shape
        assert (example.candidates >= example.targets).all()  # every target is a candidate
        assert example.parse.shape == (len(example.token_ids), len(PARSE_SIZES))
        assert (example.parse < torch.tensor(PARSE_SIZES)).all()
        for mask, box in zip(example.masks, example.boxes * side, strict=True):
            rows, columns = (torch.nonzero(mask.sum(dim=axis) > 0) for axis in (1, 0))
            tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert torch.allclose(torch.stack(tight).float(), box, atol=1.01)
    same = SceneDataset(SMOKE.config, 5, 4, vocabulary, 10)[3]
    assert torch.equal(same.sam_input, dataset[3].sam_input)
    assert torch.equal(same.token_ids, dataset[3].token_ids)
