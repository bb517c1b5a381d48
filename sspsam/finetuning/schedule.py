"""Learning rates by step: a linear warm-up from a fixed rate, then a cosine."""

import math


def learning_rate(step: int, steps: int, peak: float, *, first: float, last: float, warmup: float) -> float:
    """Return the learning rate of a step.

    Args:
        step: from 0.
        steps: of the whole training.
        peak: rate at the end of the warm-up.
        first: rate of the first step.
        last: rate at the end.
        warmup: share of the steps over which the rate rises.
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return first + (peak - first) * step / rising
    progress = (step - rising) / max(1, steps - rising)
    return last + (peak - last) * 0.5 * (1 + math.cos(math.pi * progress))
