"""Encode an image once, store its embedding, and answer many expressions from it.

python examples/ask_many.py MODEL IMAGE EMBEDDING_FILE TEXT ...
"""

import sys
from pathlib import Path

from sspsam import ImageEmbedding, SSPSAMPredictor

model, image, embedding_file, *texts = sys.argv[1:]
predictor = SSPSAMPredictor.from_pretrained(model)
if Path(embedding_file).exists():
    embedding = ImageEmbedding.load(embedding_file)
else:
    embedding = predictor.encode(image)
    embedding.save(embedding_file)
for result in predictor.predict(texts, embedding=embedding, explain=True):
    weights = " ".join(f"{word}:{weight:.2f}" for word, weight in result.explanation.words)
    print("nothing" if result.no_target else result.mask_box, result.text, f"[{weights}]", sep="\t")
