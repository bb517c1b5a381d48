"""Share one predictor between threads, as a server does: each thread passes its own embedding.

python examples/serve_threads.py MODEL TEXT IMAGE ...
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from sspsam import SSPSAMPredictor
from sspsam.errors import SSPSAMError

model, text, *images = sys.argv[1:]
predictor = SSPSAMPredictor.from_pretrained(model)


def answer(image: str) -> dict[str, object]:
    try:
        return {"image": image, **predictor.predict(text, embedding=predictor.encode(image)).to_dict()}
    except SSPSAMError as error:  # an unreadable image must not stop the others
        return {"image": image, "error": str(error)}


with ThreadPoolExecutor(max_workers=2) as pool:
    for result in pool.map(answer, images):
        print(json.dumps(result))
