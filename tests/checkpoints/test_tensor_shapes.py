"""The shapes computed without PyTorch against those of the model itself."""

import dataclasses
import subprocess
import sys

import pytest
import torch

from benchmarks.authors_checkpoint import small_architecture, tiny_architecture
from sspsam.checkpoints.tensor_shapes import tensor_shapes
from sspsam.config import PUBLISHED, Architecture
from sspsam.models import SSPSAM


def _with(part: str, **changes: object) -> Architecture:
    tiny = tiny_architecture()
    return dataclasses.replace(tiny, **{part: dataclasses.replace(getattr(tiny, part), **changes)})


_ARCHITECTURES = {
    **{f"published {variant}": architecture for variant, architecture in PUBLISHED.items()},
    **{f"small {variant}": small_architecture(variant) for variant in ("224", "336")},
    "tiny": tiny_architecture(),
    "tiny with a downsampling decoder": _with("sam", decoder_attention_downsample=2, decoder_heads=4),
    "tiny with one layer of everything in SAM": _with(
        "sam", layers=1, decoder_layers=1, iou_head_layers=1, mask_tokens=1, global_blocks=()
    ),
    "tiny with every block global": _with("sam", global_blocks=(0, 1, 2), window_size=3),
    "tiny with odd widths": _with("sam", width=33, mlp_width=7, prompt_width=40, decoder_heads=5, mask_channels=4),
    "tiny with odd CLIP": _with("clip", vision_mlp_width=131, text_mlp_width=1, embed_dim=3, vision_layers=5),
    "tiny with one layer of everything in SSP": _with(
        "ssp", image_projection_layers=1, generator_layers=1, box_head_layers=1, prompts=1, generator_mlp_width=3
    ),
}


@pytest.mark.parametrize("name", _ARCHITECTURES)
def test_the_shapes_are_those_of_the_model(name: str) -> None:
    with torch.device("meta"):
        model = SSPSAM(_ARCHITECTURES[name])
    assert tensor_shapes(_ARCHITECTURES[name]) == {
        tensor_name: tuple(tensor.shape) for tensor_name, tensor in model.state_dict().items()
    }


def test_the_shapes_need_neither_pytorch_nor_numpy() -> None:
    code = (
        "import sys; from sspsam.checkpoints.tensor_shapes import tensor_shapes; from sspsam.config import PUBLISHED;"
        "tensor_shapes(PUBLISHED['224']); print({'torch', 'numpy'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "set()\n"
