"""Names of the authors' tensors, and the architecture inferred from their shapes."""

import pytest
import torch

from benchmarks.authors_checkpoint import authors_state, seed_name, small_architecture, tiny_architecture
from sspsam.checkpoints.authors_layout import Shape, our_name, read_architecture, unused
from sspsam.config import PUBLISHED, Architecture
from sspsam.errors import CheckpointError
from sspsam.models import SSPSAM

_SIX_DEEP = {"vision_layers": 8, "surgery_layers": 6, "vocab_size": 64}
_ARCHITECTURES = {
    "tiny": tiny_architecture(),
    "tiny with six": tiny_architecture(**_SIX_DEEP),
    "tiny with all rewritten": tiny_architecture(vision_layers=6, surgery_layers=6),
    "small 224": small_architecture("224"),
    "small 336": small_architecture("336"),
}


def _shapes(architecture: Architecture, after_surgery: bool = True) -> dict[str, Shape]:
    return {name: tuple(t.shape) for name, t in authors_state(architecture, after_surgery=after_surgery).items()}


@pytest.fixture(scope="module")
def tiny() -> dict[str, Shape]:
    return _shapes(tiny_architecture(**_SIX_DEEP))


@pytest.mark.parametrize("name", _ARCHITECTURES)
def test_the_architecture_is_inferred_from_the_shapes(name: str) -> None:
    assert read_architecture(_shapes(_ARCHITECTURES[name])) == _ARCHITECTURES[name]


@pytest.mark.parametrize("name", [name for name, a in _ARCHITECTURES.items() if a.clip.surgery_layers == 6])
def test_shapes_from_before_surgery_give_the_same_architecture(name: str) -> None:
    assert read_architecture(_shapes(_ARCHITECTURES[name], after_surgery=False)) == _ARCHITECTURES[name]


@pytest.mark.parametrize("variant", ["224", "336"])
def test_the_published_architectures_are_inferred_from_their_shapes(variant: str) -> None:
    with torch.device("meta"):
        ours = SSPSAM(PUBLISHED[variant]).state_dict()
    shapes = {seed_name(name): tuple(tensor.shape) for name, tensor in ours.items()}
    assert read_architecture(shapes) == PUBLISHED[variant]


@pytest.mark.parametrize("after_surgery", [True, False])
def test_every_name_is_renamed_or_unused_and_no_two_get_the_same_new_name(after_surgery: bool) -> None:
    architecture = tiny_architecture(**_SIX_DEEP)
    names = list(_shapes(architecture, after_surgery))
    dropped = unused(names)
    ours = [our_name(name) for name in names if name not in dropped]
    with torch.device("meta"):
        expected = list(SSPSAM(architecture).state_dict())
    assert sorted(map(str, ours)) == sorted(expected)
    assert all(dropped.values())


@pytest.mark.parametrize(
    "name",
    ["", "clip", "encoder.other", "encoderxvisual.proj", "tf_scales", "norm", "phrase_attn.weight", "sam",
     "vl_transformer.encoder.layers.x.norm1.bias", "img_proj.layers.1.weight", "norm_img.weight\n",
     "Encoder.visual.proj"],
)  # fmt: skip
def test_a_name_that_only_resembles_an_authors_name_is_unknown(name: str) -> None:
    assert our_name(name) is None
    assert not unused([name])


_DETERMINING = [
    "encoder.visual.conv1.weight",
    "encoder.visual.positional_embedding",
    "encoder.visual.transformer.resblocks.0.mlp.c_fc.weight",
    "encoder.text_projection",
    "encoder.ln_final.weight",
    "encoder.transformer.resblocks.0.mlp.c_fc.weight",
    "encoder.positional_embedding",
    "encoder.token_embedding.weight",
    "sam.image_encoder.pos_embed",
    "sam.image_encoder.patch_embed.proj.weight",
    "sam.image_encoder.blocks.0.attn.rel_pos_h",
    "sam.image_encoder.blocks.0.mlp.lin1.weight",
    "sam.prompt_encoder.no_mask_embed.weight",
    "sam.prompt_encoder.mask_downscaling.3.weight",
    "sam.mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight",
    "sam.mask_decoder.transformer.layers.0.mlp.lin1.weight",
    "sam.mask_decoder.mask_tokens.weight",
    "sam.mask_decoder.iou_prediction_head.layers.0.weight",
    "clip_proj.weight",
    "prompt_token.weight",
    "vl_transformer.encoder.layers.0.linear1.weight",
]


@pytest.mark.parametrize("name", _DETERMINING)
@pytest.mark.parametrize("change", ["missing", "flat", "of too many dimensions", "empty"])
def test_a_missing_or_impossible_tensor_that_determines_a_dimension_is_named(
    name: str, change: str, tiny: dict[str, Shape]
) -> None:
    shapes = dict(tiny)
    shape = shapes.pop(name)
    if change != "missing":
        shapes[name] = {"flat": (), "of too many dimensions": (1, *shape), "empty": (0,) * len(shape)}[change]
    with pytest.raises(CheckpointError) as caught:
        read_architecture(shapes)
    assert name in str(caught.value)


def test_a_number_of_patches_that_is_no_square_is_refused(tiny: dict[str, Shape]) -> None:
    name = "encoder.visual.positional_embedding"
    with pytest.raises(CheckpointError, match=rf"'{name}' has 38 positions"):
        read_architecture(tiny | {name: (39, 128)})


def test_a_gap_in_the_numbering_is_refused(tiny: dict[str, Shape]) -> None:
    shapes = {name: shape for name, shape in tiny.items() if not name.startswith("sam.image_encoder.blocks.1.")}
    with pytest.raises(CheckpointError, match=r"sam.image_encoder.blocks.\* are not numbered without a gap: \[0, 2\]"):
        read_architecture(shapes)


def test_surgery_that_does_not_reach_the_last_block_is_refused(tiny: dict[str, Shape]) -> None:
    shapes = {name: shape for name, shape in tiny.items() if not name.endswith("resblocks.5.attn.qkv.weight")}
    with pytest.raises(CheckpointError, match="rewritten by surgery"):
        read_architecture(shapes)


def test_windows_of_several_sizes_are_refused(tiny: dict[str, Shape]) -> None:
    shapes = tiny | {"sam.image_encoder.blocks.2.attn.rel_pos_h": (5, 8)}
    with pytest.raises(CheckpointError, match=r"windows of several sizes: \[3, 5\]"):
        read_architecture(shapes)


def test_shapes_of_no_possible_model_are_refused(tiny: dict[str, Shape]) -> None:
    with pytest.raises(CheckpointError, match=r"no possible model: .*width"):
        read_architecture(tiny | {"sam.prompt_encoder.no_mask_embed.weight": (1, 65)})
    with pytest.raises(CheckpointError, match=r"no possible model: .*vocab_size"):
        read_architecture(tiny | {"encoder.token_embedding.weight": (1 << 40, 64)})


def test_an_empty_checkpoint_is_refused() -> None:
    with pytest.raises(CheckpointError, match="not a complete SSP-SAM checkpoint"):
        read_architecture({})
