"""HTML of the page's results. Every text of a visitor is escaped; all images are data URLs."""

import html
from collections.abc import Sequence
from typing import Final

import numpy as np

from sspsam.demo.answering import ImageAnswers, TimedAnswer
from sspsam.demo.overlays import Pins, figure_url, image_url, marker, mask_url, most_different
from sspsam.demo.sessions import EncodedImage
from sspsam.errors import SSPSAMError
from sspsam.segmentation.colors import PALETTE, RGB, palette, readable_on
from sspsam.segmentation.result import Segmentation
from sspsam.utils.paths import printable

_MOST_CHARACTERS: Final = 200  # of an expression or a message on the page
_UNSHOWN_NOTE: Final = (
    "Browsers cannot show files of this kind, so there is no preview on the left. "
    "The image above is what the model sees."
)


def empty_view() -> str:
    """Return the results before there is an image."""
    return _notice(
        "empty",
        "Nothing here yet",
        "Drop an image on the left, draw a scene, or pick an example. Then say what to find; the masks appear here.",
    )


def error_view(error: SSPSAMError) -> str:
    """Return an error of the library as a message to the visitor."""
    message = str(error)
    return _notice("error", "That did not work", message[:1].upper() + message[1:])


def unexpected_error_view() -> str:
    """Return the message after an error that is a defect of the program."""
    return _notice(
        "error",
        "That did not work",
        "The program failed in a way that it should not. The terminal in which it runs shows the cause; your image and "
        "your expressions are unchanged, so you can try again.",
    )


def ready_view(image: EncodedImage, reused: bool) -> str:
    """Return the image before there are expressions about it."""
    note = "The image is encoded. Every expression about it is answered from this encoding."
    return _panel(image, reused, [], [f'<p class="demo-note">{note}</p>'])


def answers_view(answers: ImageAnswers) -> str:
    """Return the image with a coloured overlay for each mask, and a card for each expression."""
    colors = _answer_colors(answers)
    pins = Pins()
    overlays = [
        _overlay(number, answer.outcome, color, pins)
        for number, (answer, color) in enumerate(zip(answers.answers, colors, strict=True), 1)
        if isinstance(answer.outcome, Segmentation) and answer.outcome.mask_box is not None
    ]
    cards = [
        _card(number, answer, color)
        for number, (answer, color) in enumerate(zip(answers.answers, colors, strict=True), 1)
    ]
    legend = f'<ol class="demo-legend" aria-label="answers">{"".join(cards)}</ol>'
    return _panel(answers.image, answers.reused, overlays, [legend])


def explanation_view(result: Segmentation) -> str:
    """Return the maps behind an answer, drawn for light and for dark pages."""
    if result.explanation is None:
        return ""
    light, dark = (figure_url(result.explanation.figure(dark=is_dark)) for is_dark in (False, True))
    alt = html.escape(f"maps behind the answer to “{_short(result.text)}”", quote=True)
    return (
        f'<figure class="demo-maps"><img class="demo-light" alt="{alt}" src="{light}">'
        f'<img class="demo-dark" alt="{alt}" src="{dark}"><figcaption>The maps show where the model looked; the bars '
        "show how much attention each word received. This is attention, not importance.</figcaption></figure>"
    )


def highlight_rules(count: int) -> str:
    """Return the CSS that connects up to `count` cards with their overlays: pointing at a card shows its mask alone."""
    rules = []
    for number in range(1, count + 1):
        card, own = f".demo-card[data-answer='{number}']", f"[data-answer='{number}']"
        rules += [
            f".demo-panel:has({card}:hover) .demo-stage [data-answer]:not({own}) {{opacity: .08}}",
            f".demo-panel:has({card} input:not(:checked)) .demo-stage {own} {{display: none}}",
        ]
    return "\n".join(rules)


def _answer_colors(answers: ImageAnswers) -> list[RGB]:
    """Return a colour for each answer that differs from the image under its mask, and from the other colours."""
    pixels = answers.image.embedding.pixels
    free: list[RGB] = []
    colors: list[RGB] = []
    for answer in answers.answers:
        free = free or palette(len(PALETTE))
        color = free[0]
        if isinstance(answer.outcome, Segmentation) and answer.outcome.mask_box is not None and pixels is not None:
            color = most_different(free, pixels, answer.outcome.mask, answer.outcome.mask_box)
            free.remove(color)
        colors.append(color)
    return colors


def _panel(image: EncodedImage, reused: bool, overlays: Sequence[str], below: Sequence[str]) -> str:
    pixels = image.embedding.pixels
    url = "" if pixels is None else image_url(pixels)
    size = f"{image.embedding.width:,} x {image.embedding.height:,} pixels"
    encoded = "reused" if reused else _duration(image.encode_seconds)
    decoded = "reused" if reused else _duration(image.decode_seconds)
    if not image.is_shown_by_browsers:
        below = [*below, f'<p class="demo-note">{_UNSHOWN_NOTE}</p>']
    return (
        '<section class="demo-panel"><div class="demo-stage">'
        f'<img class="demo-image" alt="the image" src="{url}">{"".join(overlays)}</div>'
        f'<p class="demo-times" aria-label="times"><span>{size}</span><span>decode <b>{decoded}</b></span>'
        f"<span>encode <b>{encoded}</b></span></p>{''.join(below)}</section>"
    )


def _overlay(number: int, result: Segmentation, color: RGB, pins: Pins) -> str:
    """Return the tint of a mask and its number."""
    alt = html.escape(f"mask of “{_short(result.text)}”", quote=True)
    place = marker(result.mask)
    pin = ""
    if place is not None:
        style = f"{pins.position(place)};{_colors(color)}"
        pin = f'<span class="demo-pin" data-answer="{number}" style="{style}">{number}</span>'
    return f'<img class="demo-overlay" data-answer="{number}" alt="{alt}" src="{mask_url(result.mask, color)}">{pin}'


def _card(number: int, answer: TimedAnswer, color: RGB) -> str:
    outcome = answer.outcome
    if isinstance(outcome, SSPSAMError):
        return _card_html(number, answer, "failed", "Not answered", f"<p>{_escaped(str(outcome))}</p>")
    facts = _facts(outcome, answer.seconds)
    if outcome.mask_box is None:
        verdict = "No target" if outcome.no_target else "Empty mask"
        text = "Nothing in the image fits this expression." if outcome.no_target else "No pixel passes the threshold."
        return _card_html(number, answer, "absent", verdict, f"<p>{text}</p>{facts}")
    share = f"{np.count_nonzero(outcome.mask) / outcome.mask.size:.1%} of the image"
    return _card_html(number, answer, "found", share, facts, color)


def _card_html(number: int, answer: TimedAnswer, kind: str, verdict: str, body: str, color: RGB | None = None) -> str:
    style = "" if color is None else f' style="{_colors(color)}"'
    name = _escaped(answer.text)
    head = f'<span class="demo-number">{number}</span><span class="demo-text">{name}</span>'
    if color is not None:
        head += f'<input type="checkbox" checked title="show this mask" aria-label="show the mask of {name}">'
    return (
        f'<li class="demo-card demo-{kind}" data-answer="{number}"{style}><label class="demo-head">{head}</label>'
        f'<p class="demo-verdict">{verdict}</p>{body}</li>'
    )


def _facts(result: Segmentation, seconds: float) -> str:
    presence = getattr(result, "presence", None)
    facts = [] if presence is None else [("presence", f"{presence:.2f}", "")]
    facts += [
        ("score", f"{result.score:.2f}", "the model's own guess of the mask's quality; no confidence"),
        ("time", _duration(seconds), ""),
    ]
    cells = [f'<div title="{title}"><dt>{name}</dt><dd>{value}</dd></div>' for name, value, title in facts]
    truncated = ""
    if result.text_truncated is not None:
        rest = _escaped(result.text_truncated)
        truncated = f'<p class="demo-note">Not read, because the expression is too long: {rest}</p>'
    return f"<dl>{''.join(cells)}</dl>{truncated}"


def _notice(kind: str, title: str, text: str) -> str:
    role = ' role="alert"' if kind == "error" else ""
    return f'<section class="demo-notice demo-{kind}"{role}><h3>{title}</h3><p>{_escaped(text)}</p></section>'


def _colors(color: RGB) -> str:
    return f"--mask:rgb{color};--on-mask:rgb{readable_on(color)}".replace(" ", "")


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{max(1, round(seconds * 1000))} ms"


def _short(text: str) -> str:
    text = printable(" ".join(text.split()))
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"


def _escaped(text: str) -> str:
    return html.escape(_short(text), quote=True)
