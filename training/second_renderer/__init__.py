"""A second program that draws the shapes world and asks about it, sharing nothing with the one that draws to train.

What was learnt from one program's pictures and words is measured on another's: outlines are signed distances here, and
colours, backgrounds, sentences and rules of meaning are written anew. Only what a person can decide is asked.
"""

from training.second_renderer.asking import ASKERS, Asked, Undecided, scenes_and_questions
from training.second_renderer.drawing import OUTLINES, Scene, Thing, draw_scene

__all__ = ["ASKERS", "OUTLINES", "Asked", "Scene", "Thing", "Undecided", "draw_scene", "scenes_and_questions"]
