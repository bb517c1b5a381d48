"""Segment the shapes of a drawn scene that five expressions refer to; the last expression has no target.

    python examples/first_steps.py [IMAGE [TEXT ...]]

Writes an overlay for each expression, and all overlays side by side. The bundled model knows drawn shapes only; for
photographs, name another model, as the README explains.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw

from sspsam import SSPSAMPredictor

SCENE = Path(__file__).parent / "shapes.png"
TEXTS = ["the white heart", "the largest shape", "the shapes left of the orange square", "both white shapes", "a dog"]

image, texts = Path(*sys.argv[1:2] or [SCENE]), sys.argv[2:] or TEXTS
predictor = SSPSAMPredictor.from_pretrained("shapes")
predictor.set_image(image)  # encodes the image once, for any number of expressions
overlays = []
for number, result in enumerate(predictor.predict(texts), 1):
    overlays.append(result.overlay(color=(40, 90, 255), opacity=0.65))
    overlays[-1].save(f"first_steps_{number}.png")
    print(f"{result.text}: {'nothing' if result.no_target else result.mask_box} -> first_steps_{number}.png")

width, height = overlays[0].size
sheet = Image.new("RGB", (width * len(overlays), height + 30), "white")
for column, (text, overlay) in enumerate(zip(texts, overlays, strict=True)):
    sheet.paste(overlay, (width * column, 30))
    ImageDraw.Draw(sheet).text((width * column + 8, 6), text, fill="black", font_size=16)
sheet.save("first_steps.png")
