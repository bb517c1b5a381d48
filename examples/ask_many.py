"""Encode a picture once, keep the embedding, and ask many questions of it.

python examples/ask_many.py MODEL_DIRECTORY PICTURE EMBEDDING_FILE TEXT ...
"""

import sys
from pathlib import Path

from sspsam import ImageEmbedding, SSPSAMPredictor

model, picture, stored, *texts = sys.argv[1:]
predictor = SSPSAMPredictor.from_pretrained(model)
if Path(stored).exists():
    embedding = ImageEmbedding.load(stored)
else:
    embedding = predictor.encode(picture)
    embedding.save(stored)
for result in predictor.predict(texts, embedding=embedding, explain=True):
    weights = " ".join(f"{word}:{weight:.2f}" for word, weight in result.explanation.words)
    print("nothing" if result.no_target else result.mask_box, result.text, f"[{weights}]", sep="\t")
