"""An application of your own: an uploaded image and an expression give a mask as PNG (extra `[serve]`).

    SSPSAM_MODEL=ssp-sam-224-grefcoco uvicorn --app-dir examples fastapi_app:app
    curl -F image=@photo.jpg -F text="the mug on the left" http://127.0.0.1:8000/mask -o mask.png

`sspsam serve` is a complete server, with limits, a queue and metrics; this is what to begin with in a program of yours.
"""

import io
import os
from typing import Annotated

from fastapi import FastAPI, File, Form, HTTPException, Response
from PIL import Image

from sspsam import SSPSAMPredictor
from sspsam.errors import ImageError, NoTargetError, TextError

app = FastAPI(title="Masks from words")
predictor = SSPSAMPredictor.from_pretrained(os.environ.get("SSPSAM_MODEL", "shapes"))


@app.post("/mask", response_class=Response)
def mask(image: Annotated[bytes, File()], text: Annotated[str, Form()]) -> Response:  # `def`: runs in a thread
    try:
        result = predictor.predict(text, embedding=predictor.encode(image, max_pixels=25_000_000))
        if result.no_target:
            raise NoTargetError(f"{text!r} refers to nothing in the image")
    except (ImageError, TextError) as error:
        raise HTTPException(422, str(error)) from error
    except NoTargetError as error:
        raise HTTPException(404, str(error)) from error
    headers = {"X-Mask-Box": ",".join(map(str, result.mask_box or ()))}
    buffer = io.BytesIO()
    Image.fromarray(result.mask).save(buffer, "PNG")  # one bit a pixel
    return Response(buffer.getvalue(), media_type="image/png", headers=headers)
