"""The page itself, built with Gradio: components, and the functions behind them."""

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gradio as gr

from sspsam.demo.answering import Answering, expressions
from sspsam.demo.files import write_files
from sspsam.demo.introduction import ModelNote, footer_html, hero_html, model_html
from sspsam.demo.rendering import (
    answers_view,
    empty_view,
    error_view,
    explanation_view,
    ready_view,
    unexpected_error_view,
)
from sspsam.demo.scenes import EXAMPLE_COUNT, DrawnExample, example, random_example
from sspsam.demo.storage import delete_old_files, require_room
from sspsam.demo.uploads import uploaded_image
from sspsam.errors import SSPSAMError, TextError
from sspsam.utils.files import replace_file

_LOGGER: Final = logging.getLogger(__name__)
_MODEL: Final = "model"  # one group of Gradio's queue: one request computes at a time
# on a narrow screen the results are below the image
_SCROLL: Final[dict[str, Any]] = {
    "fn": None,
    "js": "() => { if (innerWidth < 760) document.getElementById('results').scrollIntoView({behavior: 'smooth'}) }",
    "api_visibility": "private",
}
Update = Any  # of a component
View = tuple[Update, Update, Update, Update, str]  # results, choice of an expression, maps, files, shown answers


@dataclass(frozen=True)
class PageFunctions:
    """The functions behind the page; an error becomes a message on the page.

    Args:
        answering: answers, and the encoded images of all open pages.
        folder: of uploaded files and of files for download, resolved.
    """

    answering: Answering
    folder: Path

    def prepare(self, payload: object, request: gr.Request) -> tuple[Update, *View]:
        """Encode a new image, so that the first expression is quick; take away a file that is no image."""
        if not payload:
            self.answering.sessions.drop(str(request.session_hash))
            return gr.skip(), *_view(empty_view())
        try:
            data, name = uploaded_image(payload, self.folder, self.answering.limits)
            image, reused = self.answering.encode(str(request.session_hash), data, _quoted(name))
            return gr.skip(), *_view(ready_view(image, reused))
        except Exception as error:
            return None, *_view(_error_view(error))

    def find(self, payload: object, lines: str, request: gr.Request) -> View:
        """Answer the expressions about the image."""
        try:
            data, name = uploaded_image(payload, self.folder, self.answering.limits)
            texts = expressions(str(lines or ""), self.answering.limits)
            answers = self.answering.answer(str(request.session_hash), data, texts, _quoted(name))
            shown = "\n".join([answers.image.digest, *texts])
            return _view(answers_view(answers), [result.text for result in answers.results], shown)
        except Exception as error:
            return _view(_error_view(error))

    def scene(self) -> tuple[str, str]:
        """Draw a random scene; return its file and the expressions that fit it."""
        delete_old_files(self.folder, self.answering.limits.file_seconds)
        return self._written(random_example(secrets.randbelow(1 << 31)))

    def example(self, number: int) -> tuple[str, str]:
        """Return file and expressions of an example."""
        return self._written(example(number if number in range(EXAMPLE_COUNT) else 0))

    def explain(self, payload: object, text: str, request: gr.Request) -> str:
        """Return the maps behind the answer to one expression."""
        try:
            data, name = uploaded_image(payload, self.folder, self.answering.limits)
            text = expressions(str(text or ""), self.answering.limits)[0]
            return explanation_view(self.answering.explained(str(request.session_hash), data, text, _quoted(name)))
        except Exception as error:
            return _error_view(error)

    def files(self, payload: object, shown: str, request: gr.Request) -> tuple[Update, str]:
        """Write the files for download; return them, or a message.

        Args:
            payload: the image.
            shown: of the answers on the page: digest of their image, and their expressions, in lines.
            request: of the visitor.
        """
        try:
            data, name = uploaded_image(payload, self.folder, self.answering.limits)
            digest, _, lines = str(shown or "").partition("\n")
            if not lines:
                raise TextError("There are no answers yet: say what to find, and press Find.")
            texts = expressions(lines, self.answering.limits)
            answers = self.answering.answer(str(request.session_hash), data, texts, _quoted(name))
            if answers.image.digest != digest:
                raise TextError("The answers on the page are about another image: press Find.")
            require_room(self.folder, self.answering.limits)
            paths = write_files(self.folder, name, answers.results)
            return gr.update(value=[str(path) for path in paths], visible=True), ""
        except Exception as error:
            return gr.update(value=None, visible=False), _error_view(error)

    def _written(self, drawn: DrawnExample) -> tuple[str, str]:
        path = self.folder / drawn.file_name
        replace_file(path, drawn.png)  # all visitors share the file of an example: another one may be reading it
        return str(path), "\n".join(drawn.texts)

    def leave(self, request: gr.Request) -> None:
        """Release the image of a page that was closed."""
        self.answering.sessions.drop(str(request.session_hash))


def build_page(functions: PageFunctions, model: ModelNote) -> gr.Blocks:
    """Build the page.

    Args:
        functions: behind the page.
        model: named at the top.
    """
    limits = functions.answering.limits
    with gr.Blocks(title="sspsam demo", analytics_enabled=False) as page:
        gr.HTML(hero_html())
        gr.HTML(model_html(model))
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320, elem_classes="demo-inputs"):
                parts = _inputs(functions)
            with gr.Column(scale=7, min_width=320):
                results = gr.HTML(empty_view(), elem_id="results")
                with gr.Accordion("Why this answer?", open=False):
                    choice = gr.Dropdown([], label="Expression", elem_id="choice", interactive=True)
                    show_maps = gr.Button("Show the maps behind the answer", elem_id="show-maps")
                    maps = gr.HTML("", elem_id="maps")
                with gr.Accordion("Download", open=False):
                    make_files = gr.Button("Prepare masks, cut-outs and COCO JSON", elem_id="make-files")
                    files = gr.File(
                        label="Files", file_count="multiple", interactive=False, visible=False, elem_id="files"
                    )
                    problem = gr.HTML("")
                shown = gr.Textbox("", visible="hidden", elem_id="shown")
        gr.HTML(footer_html(limits))
        views = [results, choice, maps, files, shown]
        _connect(functions, parts, views)
        _connect_extras(functions, parts, (show_maps, choice, maps), (make_files, shown, files, problem))
        page.unload(functions.leave)
    page.queue(max_size=limits.queue_length, default_concurrency_limit=1)
    return page


@dataclass(frozen=True)
class _Inputs:
    """Components of the left column."""

    image: gr.Image
    lines: gr.Textbox
    find: gr.Button
    draw: gr.Button
    examples: gr.Dataset


def _inputs(functions: PageFunctions) -> _Inputs:
    image = gr.Image(
        label="Image", type="filepath", sources=["upload", "clipboard"], height=320, elem_id="image", buttons=[]
    )
    with gr.Row():
        draw = gr.Button("Draw a random scene", elem_id="draw")
    lines = gr.Textbox(
        label="What to find, one expression on each line",
        placeholder="the red circle\nthe star left of the square",
        lines=4,
        max_lines=12,
        elem_id="expressions",
    )
    find = gr.Button("Find", variant="primary", size="lg", elem_id="find")
    samples = [[functions.example(number)[0]] for number in range(EXAMPLE_COUNT)]
    examples = gr.Dataset(
        label="Examples",
        components=[gr.Image(type="filepath", render=False)],
        samples=samples,
        type="index",
        elem_id="examples",
        elem_classes="demo-examples",
    )
    return _Inputs(image, lines, find, draw, examples)


def _connect(functions: PageFunctions, parts: _Inputs, views: Sequence[Any]) -> None:
    """Connect the image and the expressions with the results."""
    of_model: dict[str, Any] = {
        "preprocess": False,  # the functions check what a client sent; Gradio would open it
        "concurrency_id": _MODEL,
        "api_visibility": "private",
        "show_progress_on": [views[0]],
    }
    find: dict[str, Any] = {"fn": functions.find, "inputs": [parts.image, parts.lines], "outputs": [*views]}
    gr.on([parts.image.upload, parts.image.clear], functions.prepare, parts.image, [parts.image, *views], **of_model)
    gr.on([parts.find.click, parts.lines.submit], **find, **of_model).then(**_SCROLL)
    filled = [parts.image, parts.lines]
    parts.draw.click(functions.scene, None, filled, api_visibility="private", show_progress="hidden").then(
        **find, **of_model
    ).then(**_SCROLL)
    parts.examples.click(
        functions.example, parts.examples, filled, api_visibility="private", show_progress="hidden"
    ).then(**find, **of_model).then(**_SCROLL)


def _connect_extras(
    functions: PageFunctions, parts: _Inputs, maps: tuple[Any, Any, Any], files: tuple[Any, Any, Any, Any]
) -> None:
    """Connect the maps and the files."""
    show_maps, choice, view = maps
    make_files, shown, listing, problem = files
    of_model: dict[str, Any] = {"preprocess": False, "concurrency_id": _MODEL, "api_visibility": "private"}
    show_maps.click(functions.explain, [parts.image, choice], view, **of_model)
    make_files.click(functions.files, [parts.image, shown], [listing, problem], **of_model)


def _view(results: str, texts: Sequence[str] = (), shown: str = "") -> View:
    """Return the results, with the choices that belong to them and without the maps and files of earlier ones."""
    choice = gr.update(choices=list(texts), value=texts[0] if texts else None)
    return results, choice, "", gr.update(value=None, visible=False), shown


def _quoted(name: str) -> str:
    return f"“{name}”"


def _error_view(error: Exception) -> str:
    if isinstance(error, SSPSAMError):
        return error_view(error)
    _LOGGER.error("the demo page failed", exc_info=error)
    return unexpected_error_view()
