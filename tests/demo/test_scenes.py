"""Scenes of the page: the expressions fit them."""

from sspsam.demo.scenes import EXAMPLE_COUNT, example, fitting_expressions, random_example
from sspsam.shapes import ask, draw_scene


def test_expressions_about_a_random_scene_fit_it_and_the_last_one_has_no_target() -> None:
    for seed in range(3):
        scene = draw_scene(seed, size=(540, 720), shapes=7)
        texts = fitting_expressions(scene, seed)
        assert len(set(texts)) == len(texts) >= 2
        answers = {question.text: question.no_target for question in ask(scene, seed, 60)}
        known = [answers[text] for text in texts if text in answers]
        assert known == sorted(known)  # those without a target are last


def test_the_same_seed_draws_the_same_example() -> None:
    assert random_example(3) == random_example(3)
    assert random_example(3).png != random_example(4).png


def test_the_last_expression_of_each_example_names_nothing_in_its_scene() -> None:
    for number in range(EXAMPLE_COUNT):
        drawn = example(number)
        shapes = draw_scene(drawn.seed, size=(540, 720), shapes=7).shapes
        _, color, kind = drawn.texts[-1].split()
        assert not [shape for shape in shapes if (shape.color, shape.kind) == (color, kind)]
        assert len(drawn.texts) >= 3
