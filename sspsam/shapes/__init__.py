"""The shapes world: drawn scenes with exact masks, and expressions about them with their answers.

The right answer to every expression is known, for tests, demonstrations and training.

    scene = draw_scene(seed=7)
    for question in ask(scene, seed=7, count=10):
        question.text, question.kind, question.mask, question.no_target, question.parse
"""

from sspsam.shapes.drawing import COLORS, Scene, Shape, draw_scene
from sspsam.shapes.nouns import Noun
from sspsam.shapes.outlines import OUTLINES
from sspsam.shapes.parse import Parse
from sspsam.shapes.questions import Question, ask

__all__ = ["COLORS", "OUTLINES", "Noun", "Parse", "Question", "Scene", "Shape", "ask", "draw_scene"]
