"""The same as the page, as a tool for assistants (Model Context Protocol)."""

from typing import Any

import gradio as gr

from sspsam.demo.answering import Answering, expressions
from sspsam.demo.uploads import base64_image
from sspsam.errors import SSPSAMError
from sspsam.segmentation.result import Segmentation


def add_tool(answering: Answering, concurrency_id: str) -> None:
    """Add the tool to the page that is being built.

    Args:
        answering: answers; its limits hold for the tool as well.
        concurrency_id: group of Gradio's queue.
    """

    def segment(image_base64: str, texts: list[str]) -> list[dict[str, Any]]:
        """Find the regions of an image that English expressions refer to.

        Args:
            image_base64: The content of an image file (PNG, JPEG, WebP, TIFF ...) in base64. Paths and URLs are
                refused.
            texts: Expressions such as "the red circle left of the star".

        Returns:
            One object for each expression: text, no_target (true if the image shows no such thing), score, mask_box
            (x0, y0, x1, y1 in pixels), and mask as COCO run-length encoding.
        """
        return tool_answers(answering, image_base64, texts)

    gr.api(segment, api_name="segment", concurrency_id=concurrency_id)


def tool_answers(answering: Answering, image_base64: object, texts: object) -> list[dict[str, Any]]:
    """Return the answers of the tool.

    Raises:
        gr.Error: the image or the expressions cannot be used; its message is that of the library.
    """
    try:
        lines = [str(text) for text in texts] if isinstance(texts, list) else [str(texts or "")]
        checked = expressions("\n".join(" ".join(line.split()) for line in lines), answering.limits)
        image = answering.encode_once(base64_image(str(image_base64), answering.limits))
        return [
            answer.outcome.to_dict()
            if isinstance(answer.outcome, Segmentation)
            else {"text": answer.text, "error": str(answer.outcome)}
            for answer in answering.answers_about(image, checked)
        ]
    except SSPSAMError as error:
        raise gr.Error(str(error), print_exception=False) from error
