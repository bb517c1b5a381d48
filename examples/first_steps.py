"""Save a checkpoint, load it, and ask about a picture: the whole way on any computer, without a download.

No trained weights come with this version of sspsam, so this makes a small model of RANDOM weights: every step is the
real one, but the masks mean nothing. With a converted checkpoint they do:

    python examples/first_steps.py [MODEL_DIRECTORY [PICTURE [TEXT ...]]]
"""

import sys
import tempfile
from dataclasses import replace

from PIL import Image, ImageDraw

from sspsam import SSPSAMPredictor
from sspsam.config import PUBLISHED, ModelConfig
from sspsam.models import SSPSAM


def random_checkpoint(directory: str) -> str:
    full = PUBLISHED["224"]
    sam = replace(full.sam, width=96, layers=3, heads=3, mlp_width=384, global_blocks=(2,))
    small = replace(full, clip=replace(full.clip, vision_layers=7, text_layers=2), sam=sam)
    SSPSAMPredictor(SSPSAM(small), ModelConfig(small, source="random weights")).save_pretrained(directory)
    print("NOTE: no trained weights were given; these are random, so the masks below mean nothing.")
    return directory


drawing = Image.new("RGB", (640, 420), "lightsteelblue")
ImageDraw.Draw(drawing).ellipse((60, 90, 260, 290), fill="firebrick")
ImageDraw.Draw(drawing).rectangle((380, 150, 560, 330), fill="gold")
model, picture, texts = sys.argv[1:2], sys.argv[2:3], sys.argv[3:] or ["the red circle", "the yellow box", "a dog"]
with tempfile.TemporaryDirectory() as folder:
    predictor = SSPSAMPredictor.from_pretrained(model[0] if model else random_checkpoint(folder))
    predictor.set_image(picture[0] if picture else drawing)
    for number, result in enumerate(predictor.predict(texts), 1):
        result.overlay(draw_box=True).save(f"first_steps_{number}.png")
        print(f"{result} -> first_steps_{number}.png")
