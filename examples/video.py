"""Segment every frame of a video with one predictor, and write the video with coloured masks (needs `pip install av`).

python examples/video.py IN.mp4 OUT.mp4 TEXT ... [--every N] [--model NAME]

Each frame is answered on its own; `--every 5` asks about every fifth frame and keeps the masks in between.
"""

import argparse

import av

from sspsam import SSPSAMPredictor
from sspsam.segmentation import draw

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("source")
parser.add_argument("target")
parser.add_argument("texts", nargs="+", metavar="TEXT")
parser.add_argument("--every", type=int, default=1)
parser.add_argument("--model", default="ssp-sam-224-grefcoco", help="shapes: drawn scenes only")
arguments = parser.parse_args()

predictor = SSPSAMPredictor.from_pretrained(arguments.model)
with av.open(arguments.source) as source, av.open(arguments.target, "w") as target:
    video = source.streams.video[0]
    width, height = video.width // 2 * 2, video.height // 2 * 2  # H.264 needs even sides
    stream = target.add_stream("libx264", rate=video.average_rate, width=width, height=height, pix_fmt="yuv420p")
    for number, frame in enumerate(source.decode(video)):
        pixels = frame.to_ndarray(format="rgb24")
        if number % arguments.every == 0:
            results = predictor.predict(arguments.texts, image=pixels)
            print(f"frame {number}: {', '.join(r.text for r in results if not r.no_target) or 'nothing'}")
        drawn = draw(pixels, results).crop((0, 0, width, height))
        target.mux(stream.encode(av.VideoFrame.from_image(drawn)))
    target.mux(stream.encode())
