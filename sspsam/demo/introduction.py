"""Texts of the page around its results: what it does, what the model knows, and what happens with an image."""

import html
from dataclasses import dataclass

from sspsam.checkpoints.names import BUNDLED, RECOMMENDED
from sspsam.demo.limits import Limits


@dataclass(frozen=True)
class ModelNote:
    """The model of the page.

    Args:
        name: as the user gave it.
        origin: source of the weights.
        device: on which it computes.
    """

    name: str
    origin: str
    device: str


def hero_html() -> str:
    """Return the title of the page."""
    return (
        '<header class="demo-hero"><div><h1>Point at things with words</h1>'
        "<p>Give an image and say what to find, such as “the triangle left of the circle”. You get the mask of each "
        "expression, or the plain answer that the image shows no such thing.</p></div></header>"
    )


def model_html(model: ModelNote) -> str:
    """Return the note about the model: what it knows, and how to name another one."""
    device = "the CPU" if model.device == "cpu" else html.escape(model.device)
    if model.name == BUNDLED:
        return (
            f'<aside class="demo-model"><strong>This page runs the bundled model “{BUNDLED}” on {device}.</strong> It '
            "is small and knows <strong>drawn shapes only</strong>: circles, stars, hearts and so on, their colours, "
            "sizes and places. Its masks on photographs mean nothing. For photographs, start the page with another "
            f"model: <code>sspsam demo --model {RECOMMENDED}</code> (a download of 3.2 GB); "
            "<code>sspsam models</code> lists all.</aside>"
        )
    return (
        f'<aside class="demo-model demo-other"><strong>This page runs {html.escape(model.name)} on {device}.</strong> '
        f"The weights come from {html.escape(model.origin)}. <code>sspsam models</code> lists the models and what they "
        "are good for; <code>sspsam demo --model NAME</code> starts the page with another one.</aside>"
    )


def footer_html(limits: Limits) -> str:
    """Return the notes at the end of the page."""
    return (
        '<p class="demo-privacy">Everything is computed on the computer that runs <code>sspsam demo</code>, and '
        f"nothing is sent elsewhere. Images: up to {limits.max_bytes / 2**20:.0f} MiB and "
        f"{limits.max_pixels / 1e6:.0f} megapixels. Expressions: up to {limits.max_expressions} at a time. Uploaded "
        "files are deleted when the program ends.</p>"
    )
