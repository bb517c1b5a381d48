"""Cut things out of an image: each on transparency, each on white with a soft edge, and a thumbnail around each.

python examples/cut_out.py IMAGE TEXT ... [--model NAME]
"""

import argparse
from pathlib import Path

from sspsam import SSPSAMPredictor

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("image", type=Path)
parser.add_argument("texts", nargs="+", metavar="TEXT")
parser.add_argument("--model", default="ssp-sam-224-grefcoco", help="shapes: drawn scenes only")
arguments = parser.parse_args()

predictor = SSPSAMPredictor.from_pretrained(arguments.model)
for number, result in enumerate(predictor.predict(arguments.texts, image=arguments.image), 1):
    if result.mask_box is None:
        print(f"{result.text}: nothing in {arguments.image}")
        continue
    stem = f"{arguments.image.stem}-{number}"
    result.cutout().save(f"{stem}.cutout.png")  # RGBA, of the size of the image
    result.cutout(feather=1.5, background="white").save(f"{stem}.white.jpg", quality=95)
    thumbnail = result.crop(margin=0.1)  # the box of the mask, and a tenth more on each side
    thumbnail.thumbnail((256, 256))
    thumbnail.save(f"{stem}.thumbnail.png")
    print(f"{result.text}: {stem}.cutout.png, {stem}.white.jpg, {stem}.thumbnail.png")
