"""One predictor shared by threads, as in a server: each thread passes its own embedding.

python examples/serve_threads.py MODEL_DIRECTORY TEXT PICTURE ...
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from sspsam import SSPSAMPredictor
from sspsam.errors import SSPSAMError

model, text, *pictures = sys.argv[1:]
predictor = SSPSAMPredictor.from_pretrained(model)


def answer(picture: str) -> dict[str, object]:
    try:
        return {"image": picture, **predictor.predict(text, embedding=predictor.encode(picture)).to_dict()}
    except SSPSAMError as error:  # one bad picture must not stop the others
        return {"image": picture, "error": str(error)}


with ThreadPoolExecutor(max_workers=2) as pool:
    for result in pool.map(answer, pictures):
        print(json.dumps(result))
