"""Every option of a fine-tuning, with the authors' numbers as defaults where they state one."""

from dataclasses import dataclass
from typing import Any, Final

from sspsam.errors import FinetuningError
from sspsam.messages import OptionMessage, option

PARTS: Final = ("ssp", "decoder", "text", "tokens")
MIXED_PRECISIONS: Final = ("no", "bf16", "fp16")


@dataclass(frozen=True)
class FinetuneOptions:
    """Numbers of a fine-tuning. Those marked (authors) are of the authors' training.

    Args:
        train: parts that learn, of `PARTS`; empty: `ssp` and `decoder` (authors), and `tokens` where expressions have
            tokens that share their row of the token embedding with others, as most tokens of the bundled model do.
        epochs: how often each training example is seen.
        steps: number of steps; None: by `epochs`.
        time: seconds for the steps, which then decide about their number; None: no limit.
        batch_size: examples per step over all processes, without negatives.
        learning_rate: peak of `ssp` and `text` (authors).
        decoder_rate: peak of `decoder` (authors).
        token_rate: peak of `tokens`, which have no weight decay.
        weight_decay: of AdamW (authors).
        warmup_rate: rate of the first step, for every part (authors).
        warmup: share of the steps in which the rate rises.
        final_rate: rate at the end of the cosine.
        clip: largest norm of the gradient (authors).
        decoder_frozen: share of the steps before the decoder begins to learn (authors); where nothing else learns, it
            learns from the first step.
        dice, focal, l1, giou: weights of the losses (authors).
        focal_alpha, focal_gamma: of the focal loss, as DETR has them.
        held_out_share: share of the images that never train, when no file of held-out lines is given.
        eval_steps: steps between two evaluations; None: 10 in all, at least 25 steps apart.
        patience: evaluations without a better score than that of the best step after which training stops, whether or
            not that step is better than the starting point; None: never.
        rehearsal_share: share of each batch, with its negatives, that repeats what the model knows.
        rehearsal_scenes: drawn scenes for it, where the model knows drawn shapes.
        negatives_share: share of the images of a batch that also get a foreign phrase with an empty mask.
        flips: whether to add the mirrored image of expressions that stay true; doubles the embeddings.
        crops: crops of each image to add, for expressions that stay true; each needs its own embedding.
        mixed_precision: `no`, `bf16` or `fp16`, of the steps.
        seed: of the split, the order and every draw.
        save_seconds: seconds between two saved states, beside those of the evaluations.
    """

    train: tuple[str, ...] = ()
    epochs: float = 10.0
    steps: int | None = None
    time: float | None = None
    batch_size: int = 16
    learning_rate: float = 1e-4
    decoder_rate: float = 1e-5
    token_rate: float = 3e-3
    weight_decay: float = 1e-4
    warmup_rate: float = 1e-6
    warmup: float = 0.05
    final_rate: float = 1e-6
    clip: float = 0.1
    decoder_frozen: float = 0.25
    dice: float = 4.0
    focal: float = 4.0
    l1: float = 5.0
    giou: float = 2.0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    held_out_share: float = 0.2
    eval_steps: int | None = None
    patience: int | None = 8
    rehearsal_share: float = 0.5
    rehearsal_scenes: int = 120
    negatives_share: float = 0.5
    flips: bool = False
    crops: int = 0
    mixed_precision: str = "no"
    seed: int = 0
    save_seconds: float = 60.0

    def __post_init__(self) -> None:
        unknown = [part for part in self.train if part not in PARTS]
        _require(not unknown, "train", f"names no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
        _require(
            self.mixed_precision in MIXED_PRECISIONS, "mixed_precision", f"must be one of {', '.join(MIXED_PRECISIONS)}"
        )
        for name in ("epochs", "batch_size", "learning_rate", "clip", "save_seconds", "rehearsal_scenes"):
            _require(getattr(self, name) > 0, name, f"must be positive, not {getattr(self, name)}")
        for name in ("steps", "time", "eval_steps", "patience"):
            value = getattr(self, name)
            _require(value is None or value > 0, name, f"must be positive, not {value}")
        for name in (
            "decoder_rate",
            "token_rate",
            "weight_decay",
            "warmup_rate",
            "final_rate",
            "crops",
            "negatives_share",
        ):
            _require(getattr(self, name) >= 0, name, f"must be 0 or more, not {getattr(self, name)}")
        for name in ("learning_rate", "decoder_rate", "token_rate"):
            _require(getattr(self, name) <= 1, name, f"must be at most 1, not {getattr(self, name)}")
        for name in ("warmup", "decoder_frozen", "rehearsal_share", "held_out_share"):
            value = getattr(self, name)
            _require(0 <= value < 1, name, f"must be a share from 0 to below 1, not {value}")
        _require(
            self.negatives_share <= 1, "negatives_share", f"must be a share from 0 to 1, not {self.negatives_share}"
        )


def _require(condition: bool, name: str, message: Any) -> None:
    if not condition:
        raise FinetuningError(OptionMessage(option(name), f" {message}"))
