"""`sspsam demo`: a page in the browser on which people try a model."""

import os

import click

from sspsam.cli.loading import load_predictor, pretrained_options
from sspsam.cli.options import ModelOptions, dtype_option, model_options
from sspsam.cli.output import failing_cleanly, print_row
from sspsam.cli.verbosity import inform


@click.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=7860, show_default=True, help="Port on 127.0.0.1; 0: a free one."
)
@click.option("--mcp", is_flag=True, help="Offer the same as a tool for assistants (Model Context Protocol).")
@model_options
@dtype_option
def demo(port: int, mcp: bool, model_options: ModelOptions, dtype: str | None) -> None:
    """Serve a page on which people try a model in the browser, until Ctrl-C.

    Prints the address of the page, on this computer only. The model is the bundled one, which knows drawn shapes,
    unless --model names another. The page works without a network. Needs the extra [demo].
    """
    with failing_cleanly():
        name = _checked_name(model_options.model)
        from sspsam.demo.server import DemoOptions, open_port, require_gradio, serve_demo

        require_gradio(mcp)
        listener = open_port(port)  # before the model is loaded, which may take long
        try:
            predictor = load_predictor(name, model_options.device, pretrained_options(model_options, dtype=dtype))
            serve_demo(predictor, DemoOptions(name, port, mcp), listener, lambda address: _announce(address, mcp))
        except KeyboardInterrupt:
            inform("stopped")
        finally:
            listener.close()


def _checked_name(model: str | None) -> str:
    """Return the name of the model; an unknown one is refused before PyTorch is imported."""
    from sspsam import hub
    from sspsam.checkpoints.names import BUNDLED

    if model is None:
        return BUNDLED
    if not model.strip():
        raise click.BadParameter("the name is empty", param_hint="--model")
    name = os.path.expanduser(model)
    hub.check_name(name)
    return name


def _announce(address: str, mcp: bool) -> None:
    print_row(address)
    tool = f"; the tool for assistants is at {address}mcp" if mcp else ""
    inform(f"open the address above in a browser{tool}; Ctrl-C ends the page")
