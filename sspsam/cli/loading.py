"""The predictor of a command, loaded with the values of its options."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sspsam.cli.options import ModelOptions
from sspsam.cli.verbosity import detail, model_message

if TYPE_CHECKING:
    from sspsam.batch.ray import PretrainedOptions
    from sspsam.predictor import SSPSAMPredictor
    from sspsam.segmentation.calibration import CalibrationChoice


def pretrained_options(
    options: ModelOptions, *, dtype: str | None = None, calibration: "CalibrationChoice" = None
) -> "PretrainedOptions":
    """Return arguments of `SSPSAMPredictor.from_pretrained`, all but the name and the device."""
    return {
        "revision": options.revision,
        "cache_dir": options.cache_dir,
        "dtype": dtype,
        "calibration": calibration,
    }


def load_predictor(
    model: str, device: str | None, pretrained: "PretrainedOptions", report: Callable[[str], None] = detail
) -> "SSPSAMPredictor":
    """Load a predictor; an unknown name is answered before PyTorch is imported.

    Args:
        model: name or path, see `options.required_model`.
        device: of the predictor; None: a GPU if there is one.
        pretrained: see `pretrained_options`.
        report: receives the message of -v. A thread other than the main thread needs one of its own, since click knows
            the verbosity in that thread only.

    Raises:
        SSPSAMError: the model cannot be loaded.
    """
    from sspsam import hub

    hub.check_name(model)
    from sspsam.predictor import SSPSAMPredictor

    start = time.perf_counter()
    predictor = SSPSAMPredictor.from_pretrained(model, device=device, **pretrained)
    report(f"{model_message(predictor)}, loaded in {time.perf_counter() - start:.1f} s")
    return predictor
