"""Checkpoints in the authors' layout, of any architecture, with reproducible pseudo-random weights.

The weights are generated as those of the golden files: uniform numbers from raw Philox bits, keyed by the CRC-32 of the
tensor's name and a seed, and scaled so that activations keep a moderate size. The layout is that of docs/method.md,
section 6.
"""

import argparse
import re
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sspsam.config import Architecture, CLIPConfig, SAMConfig, SSPConfig
from sspsam.models import SSPSAM

# patterns of the library's names and the authors' names for them; written independently of
# sspsam.checkpoints.authors_layout, which has the other direction
_AUTHORS_NAMES = [
    (r"clip\.visual\.", "encoder.visual."),
    (r"clip\.text\.", "encoder."),
    (r"ssp\.linguistic_attention_adapter\.word_projection\.", "clip_proj."),
    (r"ssp\.linguistic_attention_adapter\.gru\.", "text_proj."),
    (r"ssp\.linguistic_attention_adapter\.score\.", "phrase_attn.fc."),
    (r"ssp\.visual_attention_adapter\.image_projection\.", "clip_img_proj."),
    (r"ssp\.visual_attention_adapter\.word_attention\.", "img2text_attn."),
    (r"ssp\.visual_attention_adapter\.verify_image\.", "img_proj.layers.0."),
    (r"ssp\.visual_attention_adapter\.verify_words\.", "imgtext_proj.layers.0."),
    (r"ssp\.visual_attention_adapter\.norm\.", "norm_img."),
    (r"ssp\.visual_attention_adapter\.s", "tf_s"),
    (r"ssp\.fusion\.", "mlp."),
    (r"ssp\.prompt_generator\.box_token\.", "reg_token."),
    (r"ssp\.prompt_generator\.prompt_tokens\.", "prompt_token."),
    (r"ssp\.prompt_generator\.position\.", "vl_pos_embed."),
    (r"ssp\.prompt_generator\.layers\.", "vl_transformer.encoder.layers."),
    (r"ssp\.prompt_generator\.norm\.", "norm."),
    (r"ssp\.box_head\.", "bbox_embed."),
]
_AUTHORS_NAMES_IN_LAYERS = [
    (".attention.", ".self_attn."),
    (".mlp.layers.0.", ".linear1."),
    (".mlp.layers.1.", ".linear2."),
]


def seed_name(name: str) -> str:
    """The authors' name of one of the library's tensors, in a file saved before CLIP surgery."""
    for pattern, authors_prefix in _AUTHORS_NAMES:
        authors_name, count = re.subn("^" + pattern, authors_prefix, name)
        if count:
            if authors_name.startswith("vl_transformer."):
                for library_part, authors_part in _AUTHORS_NAMES_IN_LAYERS:
                    authors_name = authors_name.replace(library_part, authors_part)
            return authors_name
    return name


def _pseudo_random_tensor(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Weights of one tensor, determined by its name, its shape and a seed."""
    count = int(np.prod(shape)) if shape else 1
    bits = np.random.Philox(key=[zlib.crc32(name.encode()), seed]).random_raw((count + 1) // 2)
    uniform = bits.view(np.uint32)[:count].astype(np.float64) * 2.0**-31 - 1.0  # -1 to 1
    unit = torch.from_numpy(uniform.astype(np.float32).reshape(shape))
    leaf = name.rpartition(".")[2]
    if leaf == "logit_scale":
        return torch.tensor(4.6052)
    if leaf == "tf_sigma":
        return 0.5 + 0.1 * unit
    if leaf == "positional_encoding_gaussian_matrix":
        return unit * float(3**0.5)
    if leaf == "tf_scale" or (unit.dim() <= 1 and leaf == "weight"):
        return 1 + 0.1 * unit
    if unit.dim() <= 1:
        return 0.1 * unit
    return unit * float((3 / int(np.prod(shape[1:]))) ** 0.5)


def authors_state(architecture: Architecture, seed: int = 0, after_surgery: bool = True) -> dict[str, Tensor]:
    """The `model` entry of an authors' checkpoint.

    Args:
        architecture: of the model.
        seed: another seed gives other weights.
        after_surgery: with the names of a file that was saved after a forward pass, in which CLIP surgery has replaced
            attention modules; False: with stock names.
    """
    with torch.device("meta"):
        model_state = SSPSAM(architecture).state_dict()
    shapes: dict[str, tuple[int, ...]] = {seed_name(name): tuple(tensor.shape) for name, tensor in model_state.items()}
    width = architecture.sam.prompt_width
    shapes |= {
        "encoder.logit_scale": (),
        "img2img_attn.in_proj_weight": (3 * width, width),
        "img2img_attn.in_proj_bias": (3 * width,),
        "img2img_attn.pos_x": (2 * 14 + 1, width // 2),
        "img2img_attn.pos_y": (2 * 14 + 1, width // 2),
        "img2img_attn.out_proj.weight": (width, width),
        "img2img_attn.out_proj.bias": (width,),
        "norm_text_cond_img.weight": (width,),
        "norm_text_cond_img.bias": (width,),
    }
    with ThreadPoolExecutor() as threads:  # NumPy generates and converts without the lock of the interpreter
        tensors = threads.map(partial(_pseudo_random_tensor, seed=seed), shapes, shapes.values())
        state = dict(zip(shapes, tensors, strict=True))
    return _renamed_by_surgery(state, architecture.clip) if after_surgery else state


def _renamed_by_surgery(state: dict[str, Tensor], clip: CLIPConfig) -> dict[str, Tensor]:
    """Rename the attention of the rewritten vision blocks; one block's attention is stored twice."""
    first = clip.vision_layers - clip.surgery_layers
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"(encoder\.visual\.)transformer\.resblocks\.(\d+)\.attn\.(in_proj_|out_proj\.)(.+)", name)
        if match is None or int(match[2]) < first:
            renamed[name] = tensor
            continue
        leaf = ("qkv." if match[3] == "in_proj_" else "proj.") + match[4]
        renamed[f"{match[1]}transformer.resblocks.{match[2]}.attn.{leaf}"] = tensor
        if int(match[2]) == first:
            renamed[f"{match[1]}attn.{leaf}"] = tensor  # shared, as in the authors' files
    return renamed


def write_checkpoint(path: Path, state: dict[str, Tensor], **extra: Any) -> Path:
    """Save a checkpoint as the authors do, with the other entries that their training writes.

    Args:
        path: file to write.
        state: the `model` entry.
        extra: further entries, or replacements of the usual ones.
    """
    other_entries: dict[str, Any] = {
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4, "params": []}]},
        "lr_scheduler": {"last_epoch": 79},
        "epoch": 79,
        "best": np.float64(0.75),
        "args": argparse.Namespace(dataset="unc", clip_max_norm=0.1, is_pretrain=False),
    }
    torch.save({"model": state, **other_entries, **extra}, path)
    return path


def small_architecture(variant: str) -> Architecture:
    """Architecture of the golden files: few CLIP and SAM layers, SSP encoder and mask decoder at full size."""
    patch, size, width = {"224": (16, 224, 512), "336": (14, 336, 768)}[variant]
    clip = CLIPConfig(
        image_size=size,
        patch_size=patch,
        vision_width=128,
        vision_layers=8,
        vision_heads=2,
        vision_mlp_width=512,
        surgery_layers=6,
        embed_dim=width,
        text_width=width,
        text_layers=2,
        text_heads=width // 64,
        text_mlp_width=4 * width,
    )
    sam = SAMConfig(
        image_size=1024,
        patch_size=16,
        width=64,
        layers=2,
        heads=2,
        mlp_width=256,
        window_size=14,
        global_blocks=(1,),
    )
    return Architecture(clip, sam, SSPConfig())


def tiny_architecture(**clip_changes: int) -> Architecture:
    """Architecture that is built within a fraction of a second; every dimension differs from the published ones."""
    clip = {
        "image_size": 48,
        "patch_size": 8,
        "vision_width": 128,
        "vision_layers": 3,
        "vision_heads": 2,
        "vision_mlp_width": 200,
        "surgery_layers": 2,
        "embed_dim": 40,
        "text_width": 64,
        "text_layers": 2,
        "text_heads": 1,
        "text_mlp_width": 96,
    } | clip_changes
    sam = SAMConfig(
        image_size=128,
        patch_size=16,
        width=24,
        layers=3,
        heads=3,
        mlp_width=50,
        window_size=5,
        global_blocks=(1,),
        prompt_width=64,
        mask_channels=8,
        decoder_layers=3,
        decoder_mlp_width=72,
        decoder_attention_downsample=1,
        mask_tokens=3,
        iou_head_layers=2,
        iou_head_width=20,
    )
    ssp = SSPConfig(
        hidden_width=56,
        prompts=7,
        image_projection_layers=2,
        generator_layers=2,
        generator_mlp_width=80,
        box_head_layers=2,
    )
    return Architecture(CLIPConfig(**clip), sam, ssp)
