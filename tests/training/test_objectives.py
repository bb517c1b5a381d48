"""The objective of a batch of scenes: that of its scenes one by one, and the library's own answers."""

import pytest
import torch

from sspsam.models import SSPSAM
from tests.support.training import SMOKE
from training.batches import SceneBatch, collate_scenes
from training.datasets import SceneDataset
from training.objectives import Objective
from training.vocabulary import Vocabulary


def scenes(vocabulary: Vocabulary, count: int) -> list[SceneBatch]:
    """Batches of one scene each, and at last all of them as one batch."""
    config = SMOKE.stage_config(SMOKE.stages["fine"])
    dataset = SceneDataset(config, 7, 4, vocabulary, count)
    examples = [dataset[index] for index in range(count)]
    assert len({len(example.masks) for example in examples}) > 1
    return [*(collate_scenes([example]) for example in examples), collate_scenes(examples)]


def test_the_output_for_a_scene_does_not_depend_on_the_other_scenes_of_the_batch(vocabulary: Vocabulary) -> None:
    torch.manual_seed(0)
    objective = Objective(SSPSAM(SMOKE.stage_config(SMOKE.stages["fine"]).architecture))
    *single, together = scenes(vocabulary, 3)
    with torch.no_grad():
        expected = [objective.segment(batch)[2] for batch in single]
        output = objective.segment(together)[2]
    for name in ("low_res", "ious", "box", "similarity"):
        assert torch.allclose(getattr(output, name), torch.cat([getattr(x, name) for x in expected]), atol=1e-4)
    for name in ("marks", "summary"):
        assert torch.allclose(getattr(output, name), torch.cat([getattr(x, name) for x in expected], dim=1), atol=1e-4)


def test_training_segments_as_the_library_does(vocabulary: Vocabulary) -> None:
    torch.manual_seed(0)
    model = SSPSAM(SMOKE.stage_config(SMOKE.stages["fine"]).architecture)
    *single, together = scenes(vocabulary, 3)
    with torch.no_grad():
        output = Objective(model).segment(together)[2]
        images = model.encode_image(together.clip_input, together.sam_input)
        answers = [
            model.segment(model.prepare(image), model.encode_text(batch.token_ids))
            for image, batch in zip(images, single, strict=True)
        ]
    assert torch.allclose(output.low_res, torch.cat([answer.low_res for answer in answers]), atol=1e-4)
    assert torch.allclose(output.box, torch.cat([answer.box for answer in answers]), atol=1e-4)


def test_the_losses_of_patches_are_the_mean_over_the_scenes_of_a_batch(vocabulary: Vocabulary) -> None:
    torch.manual_seed(0)
    objective = Objective(SSPSAM(SMOKE.stage_config(SMOKE.stages["fine"]).architecture))
    *single, together = scenes(vocabulary, 3)
    with torch.no_grad():
        expected = [objective("clip", batch) for batch in single]
        actual = objective("clip", together)
    for name, loss in actual.items():
        assert float(loss) == pytest.approx(float(torch.stack([x[name] for x in expected]).mean()), rel=1e-4)
