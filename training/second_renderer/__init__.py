"""A second program that draws the shapes world and asks about it; it shares no code with `sspsam.shapes`.

A model that was trained on scenes and expressions of `sspsam.shapes` is measured on these. Outlines are signed
distances here, and colours, backgrounds, sentences and the rules for targets are an independent implementation. Only
expressions that a person could answer without doubt are generated.
"""

from training.second_renderer.drawing import OUTLINES, Scene, Thing, draw_scene
from training.second_renderer.expressions import GENERATORS, AmbiguousDraw
from training.second_renderer.questions import Question, scenes_and_questions

__all__ = [
    "GENERATORS",
    "OUTLINES",
    "AmbiguousDraw",
    "Question",
    "Scene",
    "Thing",
    "draw_scene",
    "scenes_and_questions",
]
