"""Segment the shapes of a drawn scene that four expressions refer to; the last expression has no target.

    python examples/first_steps.py [IMAGE [TEXT ...]]

Writes an overlay for each expression, and first_steps.png with all answers over the image in grey. The bundled model
knows drawn shapes only; for photographs, name another model, as the README explains.
"""

import sys
from pathlib import Path

from PIL import Image

from sspsam import SSPSAMPredictor
from sspsam.segmentation import draw

SCENE = Path(__file__).parent / "shapes.png"
TEXTS = ["both hearts", "the triangle left of the circle", "the star", "the green heart"]

image, texts = Path(*sys.argv[1:2] or [SCENE]), sys.argv[2:] or TEXTS
predictor = SSPSAMPredictor.from_pretrained("shapes")
predictor.set_image(image)  # encodes the image once, for any number of expressions
results = predictor.predict(texts)
for number, result in enumerate(results, 1):
    result.overlay().save(f"first_steps_{number}.png")
    print(f"{result.text}: {'nothing' if result.no_target else result.mask_box} -> first_steps_{number}.png")
grey = Image.fromarray(results[0].pixels).convert("L")
draw(grey, results, colors=["#2456d6", "#c2006b", "#00806e"], opacity=0.8, outlines=False).save("first_steps.png")
