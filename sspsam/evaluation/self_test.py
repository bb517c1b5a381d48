"""The self-test of a machine: are its answers those of float32 on a CPU, and how long do they take?"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple, TypeVar

import torch

from sspsam import hub
from sspsam.checkpoints.bundled import BUNDLED_DIRECTORY
from sspsam.checkpoints.names import BUNDLED
from sspsam.config import ModelConfig
from sspsam.devices import checked_device, checked_dtype, default_dtype, dtype_name, named_out_of_memory
from sspsam.errors import DeviceError, NumericalError, OutOfMemoryError, SSPSAMError
from sspsam.evaluation.comparison import Differences, ReferenceAnswer
from sspsam.evaluation.environment import device_name, memory_bytes, reset_peak_memory, versions
from sspsam.evaluation.stored_answers import (
    ANSWERS_NAME,
    ReferenceScene,
    StoredAnswers,
    digest_of_resized_images,
    load_answers,
)
from sspsam.images.loading import Pixels
from sspsam.models.gru import gru_kernel_on
from sspsam.models.norms import norm_kernels_on
from sspsam.models.patch_weights import patch_kernels_on
from sspsam.models.trials import failed_trials
from sspsam.predictor import SSPSAMPredictor
from sspsam.segmentation.result import Segmentation
from sspsam.segmentation.summary import summary_kernel_on
from sspsam.utils.paths import first_line
from sspsam.utils.progress import item_progress

_SCENES_FOR_A_CHECKPOINT: Final = 3  # a published model takes some 20 seconds for a scene on a CPU
_NEW_IMAGES, _FURTHER_EXPRESSIONS = 5, 15  # timed at most
_TIMED_SECONDS: Final = 10.0  # no further repetition begins after this time
KERNELS: Final = (norm_kernels_on, patch_kernels_on, gru_kernel_on, summary_kernel_on)  # all that sspsam has for GPUs

Item = TypeVar("Item")


class ImageQuestions(NamedTuple):
    """Expressions about one image."""

    pixels: Pixels
    texts: list[str]


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint to compare with itself; the arguments of `SSPSAMPredictor.from_pretrained`."""

    name: str
    revision: str | None = None
    cache_dir: Path | None = None

    def resolve(self) -> None:
        """Download and convert the checkpoint if that is necessary.

        Raises:
            SSPSAMError: there is no such checkpoint, or it cannot be downloaded; see `hub.resolve`.
        """
        hub.resolve(self.name, hub.HubOptions.of(self.revision, self.cache_dir))

    def load(self, device: torch.device | str, dtype: torch.dtype) -> SSPSAMPredictor:
        """Load a predictor."""
        return SSPSAMPredictor.from_pretrained(
            self.name, revision=self.revision, cache_dir=self.cache_dir, device=device, dtype=dtype
        )


@dataclass(frozen=True)
class ModelCheck:
    """The result for one model.

    Args:
        model: its name.
        fingerprint: of the model.
        reference: the answers that its answers were compared with.
        differences: from the reference.
        milliseconds: median times of `new_image` (an image in memory and its first expression, to the mask on the host)
            and of a `further_expression`.
        memory_bytes: see `environment.memory_bytes`.
        problems: differences beyond the tolerances.
    """

    model: str
    fingerprint: str
    reference: str
    differences: Differences
    milliseconds: dict[str, float]
    memory_bytes: int | None
    problems: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, with the entries of `differences` among the others; None for what is no number."""
        values = asdict(self)
        differences: dict[str, Any] = values.pop("differences")
        return {name: value if math.isfinite(value) else None for name, value in differences.items()} | values


_NO_CHECK: Final = ModelCheck("", "", "", Differences(), {}, None, [])


@dataclass(frozen=True)
class CheckReport:
    """The result of the self-test.

    Args:
        device: that was tested.
        device_name: name of the hardware, if it is known.
        dtype: precision that was tested.
        bundled: result for the bundled model; None if an error ended the test before.
        checkpoint: result for a checkpoint; None: none was given, or an error ended the test before.
        notes: what a reader of the numbers should know.
        error: that ended the test; None: none did.
        versions: of the software, and names of the hardware.
    """

    device: str
    device_name: str | None
    dtype: str
    bundled: ModelCheck | None
    checkpoint: ModelCheck | None
    notes: list[str]
    error: str | None
    versions: dict[str, str | int | None]

    @property
    def problems(self) -> list[str]:
        """All differences beyond the tolerances, with the names of the models, and the error."""
        checks = [check for check in (self.bundled, self.checkpoint) if check is not None]
        found = [f"{check.model}: {problem}" for check in checks for problem in check.problems]
        return found if self.error is None else [*found, self.error]

    @property
    def ok(self) -> bool:
        """True if all answers are within the tolerances."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: the bundled model's at the top level, those of a checkpoint under `checkpoint`."""
        not_measured = dict.fromkeys(_NO_CHECK.to_dict())
        return {
            "ok": self.ok,
            "device": self.device,
            "device_name": self.device_name,
            "dtype": self.dtype,
            **(not_measured if self.bundled is None else self.bundled.to_dict()),
            "checkpoint": None if self.checkpoint is None else self.checkpoint.to_dict(),
            "problems": self.problems,
            "notes": self.notes,
            "versions": self.versions,
        }


def run_self_test(
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    checkpoint: Checkpoint | None = None,
    questions: Sequence[ImageQuestions] = (),
) -> CheckReport:
    """Compare the answers of a device with float32 answers of a CPU, and measure times and memory.

    The bundled model answers about drawn scenes; its reference is stored in the package. A checkpoint is compared with
    its own float32 answers, computed here on the CPU.

    Args:
        device, dtype: see `SSPSAMPredictor`.
        checkpoint: to check after the bundled model.
        questions: about which the checkpoint is asked; none: some of the drawn scenes.

    Returns:
        The report. An error of the computation is part of it.

    Raises:
        DeviceError: this computer has no such device.
        SSPSAMError: the checkpoint cannot be loaded, or the installation is damaged.
    """
    chosen = checked_device(device)
    precision = default_dtype(chosen) if dtype is None else checked_dtype(dtype)
    if checkpoint is not None:
        checkpoint.resolve()
    bundled, checked, notes, error = None, None, [], None
    try:
        with _named_failures(chosen):
            predictor = SSPSAMPredictor.from_pretrained(BUNDLED, device=chosen, dtype=precision)
            stored = stored_answers(predictor.config)
            notes = _notes(stored, predictor.config)
            bundled = _check(BUNDLED, predictor, stored.scenes, "stored float32 answers of a CPU")
            del predictor  # its memory is not that of the checkpoint
            if checkpoint is not None:
                drawn = [ImageQuestions(scene.pixels, scene.texts) for scene in stored.scenes]
                checked = _check_checkpoint(
                    checkpoint, questions or drawn[:_SCENES_FOR_A_CHECKPOINT], chosen, precision
                )
    except (DeviceError, NumericalError, OutOfMemoryError) as failure:
        error = str(failure)
    if chosen.type == "cuda":
        notes = [*notes, *failed_trials(chosen, KERNELS)]
    return CheckReport(
        str(chosen), device_name(chosen), dtype_name(precision), bundled, checked, notes, error, versions()
    )


def stored_answers(config: ModelConfig) -> StoredAnswers:
    """Read the stored answers of the bundled model.

    Args:
        config: of the bundled model.

    Raises:
        CheckpointError: they are missing or damaged, or belong to other weights.
    """
    return load_answers(BUNDLED_DIRECTORY / ANSWERS_NAME, config)


def reference_scenes(predictor: SSPSAMPredictor, questions: Iterable[ImageQuestions]) -> list[ReferenceScene]:
    """Return images, expressions, and the answers of a predictor as references."""
    return [
        ReferenceScene(pixels, texts, [ReferenceAnswer.of(result) for result in _answers(predictor, pixels, texts)])
        for pixels, texts in questions
    ]


def _check_checkpoint(
    checkpoint: Checkpoint, questions: Sequence[ImageQuestions], device: torch.device, dtype: torch.dtype
) -> ModelCheck:
    with item_progress("images", 2 * len(questions), 0, enabled=True) as advance:
        # the CPU is the reference: a device that has not been checked may be wrong in float32, too
        exact = checkpoint.load("cpu", torch.float32)
        scenes = reference_scenes(exact, _counted(questions, advance))
        del exact  # its memory is not that of the predictor under test
        predictor = checkpoint.load(device, dtype)
        return _check(checkpoint.name, predictor, scenes, "its own float32 answers on this CPU", advance)


def _check(
    name: str,
    predictor: SSPSAMPredictor,
    scenes: Sequence[ReferenceScene],
    reference: str,
    advance: Callable[[], object] = lambda: None,
) -> ModelCheck:
    """Compare a predictor's answers with those of the scenes, and measure it; `advance` is called for each scene."""
    reset_peak_memory(predictor.device)
    differences = Differences()
    for scene in _counted(scenes, advance):
        differences += Differences.between(_answers(predictor, scene.pixels, scene.texts), scene.answers)
    return ModelCheck(
        name,
        predictor.fingerprint,
        reference,
        differences,
        _milliseconds(predictor, scenes[0].pixels),
        memory_bytes(predictor.device),
        differences.beyond_tolerance(predictor.dtype),
    )


def _answers(predictor: SSPSAMPredictor, pixels: Pixels, texts: list[str]) -> list[Segmentation]:
    return predictor.predict(texts, image=pixels, return_logits="low_res")


def _counted(items: Iterable[Item], advance: Callable[[], object]) -> Iterator[Item]:
    """Yield items, and call `advance` after the caller has finished with each."""
    for item in items:
        yield item
        advance()


def _milliseconds(predictor: SSPSAMPredictor, pixels: Pixels) -> dict[str, float]:
    """Return the median times of a new image with its first expression, and of a further expression."""
    texts = (f"shape number {number}" for number in itertools.count())  # the features of known texts are cached
    predictor.predict(next(texts), image=pixels)  # everything that is done once
    new_image = _median(lambda: predictor.predict(next(texts), image=pixels), _NEW_IMAGES)
    embedding = predictor.encode(pixels)
    predictor.predict(next(texts), embedding=embedding)  # what the image alone determines
    further = _median(lambda: predictor.predict(next(texts), embedding=embedding), _FURTHER_EXPRESSIONS)
    return {"new_image": new_image, "further_expression": further}


def _median(run: Callable[[], object], repetitions: int) -> float:
    """Return the median time of a function that returns results on the host, in milliseconds."""
    times: list[float] = []
    while len(times) < repetitions and sum(times) < 1000 * _TIMED_SECONDS:
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    return round(median(times), 3)


def _notes(stored: StoredAnswers, config: ModelConfig) -> list[str]:
    if digest_of_resized_images([scene.pixels for scene in stored.scenes], config) == stored.resized_digest:
        return []
    pillow = stored.made_with.get("Pillow", "another version")
    return [
        f"the installed Pillow resizes images differently from {pillow}, which the stored answers were made with: "
        "part of the differences comes from the images"
    ]


@contextmanager
def _named_failures(device: torch.device) -> Iterator[None]:
    """Turn the errors of operators that a device lacks, or that fail there, into a `DeviceError` of one line."""
    try:
        with named_out_of_memory():
            yield
    except (RuntimeError, TypeError) as error:  # TypeError: MPS refuses float64 with it
        if isinstance(error, SSPSAMError) or device.type == "cpu":  # PyTorch's CPU lacks nothing: a bug of ours
            raise
        reason = first_line(error).split(". ")[0]
        raise DeviceError(f"device '{device}' failed: {reason}") from error
