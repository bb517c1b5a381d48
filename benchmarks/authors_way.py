"""SSP-SAM as its definition reads, on stock modules: one expression at a time, nothing kept, nothing clever.

This is what our code is compared with, in speed and in numbers. It knows nothing of `sspsam`: it takes a checkpoint in
the authors' layout, with the authors' names, and computes section by section from stock `open_clip` and
`segment_anything` modules and plain functions.
"""

import math
import re
from dataclasses import dataclass
from functools import partial

import numpy as np
import open_clip
import torch
from PIL import Image
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import functional as TF

State = dict[str, Tensor]


@dataclass(frozen=True)
class Answer:
    """What the definition gives for one expression."""

    clip_input: Tensor
    similarity: Tensor
    word_attention: Tensor
    verify: Tensor
    prompts: Tensor
    box_norm: Tensor
    box_xyxy: Tensor
    low_res: Tensor
    iou_pred: Tensor
    logits512: Tensor


class AuthorsWay:
    """The whole computation for one checkpoint.

    Args:
        state: the `model` entry of an authors' checkpoint.
        surgery_layers: how many of the last vision blocks run two paths.
    """

    def __init__(self, state: State, surgery_layers: int = 6) -> None:
        self.state = state
        self.surgery_layers = surgery_layers
        self.clip, self.size, self.grid = _clip(state)
        self.sam = _sam(state)
        self.gru, self.verifying, self.generating = self._attending()
        self.tokenize = open_clip.tokenizer.SimpleTokenizer(context_length=self.clip.context_length)

    def to(self, device: torch.device) -> "AuthorsWay":
        """The same on another device."""
        for module in (self.clip, self.sam, self.gru, self.verifying, self.generating):
            module.to(device)
        self.state = {name: tensor.to(device) for name, tensor in self.state.items()}
        return self

    @torch.no_grad()
    def look(self, image: Image.Image) -> Tensor:
        """SAM's embedding of a picture, (1, D, g, g)."""
        resized = ResizeLongestSide(self.sam.image_encoder.img_size).apply_image(np.array(image))
        pixels = torch.as_tensor(resized, device=self.sam.device).permute(2, 0, 1)[None]
        return self.sam.image_encoder(self.sam.preprocess(pixels))

    @torch.no_grad()
    def __call__(self, image: Image.Image, text: str, embedding: Tensor | None = None) -> Answer:
        """Answer one expression about an RGB picture, from the very beginning unless SAM's embedding is given."""
        ids = self.tokenize(f"{text.strip().lower()}.").to(self.sam.device)
        pixels, corner, ratio = self._clip_input(image)
        features = self._image_features(pixels[None].to(self.sam.device))
        words, sentence = self._text_features(ids)
        similarity = features[:, 1:] @ sentence[:, :, None]  # (1, G*G, 1)
        low, high = similarity.amin(1, keepdim=True), similarity.amax(1, keepdim=True)
        similarity = (similarity - low) / (high - low)
        patches = self._mlp("clip_img_proj", features[:, 1:] * similarity, self._count("clip_img_proj.layers."))
        tokens = F.linear(words, self.state["clip_proj.weight"], self.state["clip_proj.bias"])
        attention = self._word_attention(tokens, ids)
        summary = (attention[..., None] * tokens).sum(1)
        verify = self._verify(patches, tokens, ids)
        gated = F.layer_norm(patches, patches.shape[-1:], self.state["norm_img.weight"], self.state["norm_img.bias"])
        gated = gated * verify[..., None]
        fused = F.linear(gated.tanh() * summary.tanh()[:, None], self.state["mlp.weight"], self.state["mlp.bias"])
        rows = self._generate(fused)
        box = self._mlp("bbox_embed", rows[:, 0], self._count("bbox_embed.layers.")).sigmoid()[0]
        prompts = rows[:, 1 : 1 + len(self.state["prompt_token.weight"])]
        low_res, iou = self._decode(self.look(image) if embedding is None else embedding, prompts)
        large = F.interpolate(low_res, (self.sam.image_encoder.img_size,) * 2, mode="bilinear", align_corners=False)
        return Answer(
            pixels,
            similarity[0, :, 0].view(self.grid, self.grid),
            attention[0],
            verify[0],
            prompts[0],
            box,
            self._box_on_picture(box, corner, ratio, image.size),
            low_res[0, 0],
            iou[0],
            F.interpolate(large, (512, 512), mode="bilinear", align_corners=False)[0, 0],
        )

    def _clip_input(self, image: Image.Image) -> tuple[Tensor, tuple[int, int], tuple[float, float]]:
        width, height = image.size
        new = [round(side * self.size / max(width, height)) for side in (height, width)]
        tensor = TF.to_tensor(TF.resize(image, new))
        tensor = TF.normalize(tensor, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
        top, left = (round((self.size - side) / 2 - 0.1) for side in new)
        canvas = torch.zeros(3, self.size, self.size)
        canvas[:, top : top + new[0], left : left + new[1]] = tensor
        return canvas, (left, top), (new[1] / width, new[0] / height)

    def _image_features(self, x: Tensor) -> Tensor:
        visual = self.clip.visual
        x = visual._embeds(x)
        first = len(visual.transformer.resblocks) - self.surgery_layers
        new = x
        for index, block in enumerate(visual.transformer.resblocks):
            if index < first:
                x = new = block(x)
                continue
            normed = block.ln_1(x)
            q, k, v = F.linear(normed, block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, dim=-1)
            ordinary, by_value = self._attend(block.attn, q, k, v), self._attend(block.attn, v, v, v)
            new = new + by_value
            x = x + ordinary
            x = x + block.mlp(block.ln_2(x))
        tokens = new.clone()
        tokens[:, 0] = x[:, 0]
        features = visual.ln_post(tokens) @ visual.proj
        return features / features.norm(dim=1, keepdim=True)

    @staticmethod
    def _attend(attention: nn.MultiheadAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = attention.num_heads
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return attention.out_proj((weights @ v).transpose(1, 2).flatten(2))

    def _text_features(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        clip = self.clip
        x = clip.token_embedding(ids) + clip.positional_embedding
        words = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask))
        sentence = words[torch.arange(len(ids)), ids.argmax(-1)] @ clip.text_projection
        return words, sentence / sentence.norm(dim=-1, keepdim=True)

    def _word_attention(self, tokens: Tensor, ids: Tensor) -> Tensor:
        score = F.linear(self.gru(tokens)[0], self.state["phrase_attn.fc.weight"], self.state["phrase_attn.fc.bias"])
        attention = score[..., 0].softmax(-1) * (ids != 0)
        return attention / attention.sum(-1, keepdim=True)

    def _verify(self, patches: Tensor, tokens: Tensor, ids: Tensor) -> Tensor:
        attended, _ = self.verifying(patches, tokens, tokens, key_padding_mask=ids == 0)
        image, words = self._mlp("img_proj", patches, 1), self._mlp("imgtext_proj", attended, 1)
        cosine = (F.normalize(image, dim=-1) * F.normalize(words, dim=-1)).sum(-1)
        sigma = self.state["tf_sigma"]
        return self.state["tf_scale"] * torch.exp(-((1 - cosine) ** 2) / (2 * sigma**2))

    def _generate(self, fused: Tensor) -> Tensor:
        x = torch.cat([self.state["reg_token.weight"], self.state["prompt_token.weight"], fused[0]])[:, None]
        place = self.state["vl_pos_embed.weight"][:, None]
        width = x.shape[-1]
        for index, attention in enumerate(self.generating):
            weights = self._below(f"vl_transformer.encoder.layers.{index}.")
            x = x + attention(x + place, x + place, x)[0]
            x = F.layer_norm(x, (width,), weights["norm1.weight"], weights["norm1.bias"])
            inner = F.relu(F.linear(x, weights["linear1.weight"], weights["linear1.bias"]))
            x = x + F.linear(inner, weights["linear2.weight"], weights["linear2.bias"])
            x = F.layer_norm(x, (width,), weights["norm2.weight"], weights["norm2.bias"])
        return F.layer_norm(x, (width,), self.state["norm.weight"], self.state["norm.bias"]).transpose(0, 1)

    def _decode(self, embedding: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        _, dense = self.sam.prompt_encoder(points=None, boxes=None, masks=None)
        low_res, iou = self.sam.mask_decoder(
            image_embeddings=embedding,
            image_pe=self.sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=prompts,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return low_res, iou

    def _box_on_picture(
        self, box: Tensor, corner: tuple[int, int], ratio: tuple[float, float], size: tuple[int, int]
    ) -> Tensor:
        x, y, w, h = box.double()
        corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) * self.size
        corners = corners.cpu()
        inside = (corners - torch.tensor([*corner, *corner])).clamp(min=0) / torch.tensor([*ratio, *ratio]).double()
        return torch.minimum(inside, torch.tensor([*size, *size]))

    def _attending(self) -> tuple[nn.GRU, nn.MultiheadAttention, nn.ModuleList]:
        """The modules that have stock ones, built once: the GRU, patches to words, and the layers of the generator."""
        hidden = len(self.state["norm_img.weight"])
        gru = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)
        gru.load_state_dict(self._below("text_proj."))
        verifying = nn.MultiheadAttention(hidden, 8, batch_first=True)
        verifying.load_state_dict(self._below("img2text_attn."))
        generating = nn.ModuleList()
        for index in range(self._count("vl_transformer.encoder.layers.")):
            attention = nn.MultiheadAttention(len(self.state["norm.weight"]), 8)
            attention.load_state_dict(self._below(f"vl_transformer.encoder.layers.{index}.self_attn."))
            generating.append(attention)
        return gru.eval(), verifying.eval(), generating.eval()

    def _mlp(self, name: str, x: Tensor, layers: int) -> Tensor:
        for index in range(layers):
            weight, bias = (self.state[f"{name}.layers.{index}.{leaf}"] for leaf in ("weight", "bias"))
            x = F.linear(x, weight, bias)
            x = F.relu(x) if index < layers - 1 else x
        return x

    def _below(self, prefix: str) -> State:
        return {name.removeprefix(prefix): tensor for name, tensor in self.state.items() if name.startswith(prefix)}

    def _count(self, prefix: str) -> int:
        return len({name[len(prefix) :].partition(".")[0] for name in self.state if name.startswith(prefix)})


def _layers(state: State, prefix: str) -> int:
    return len({name[len(prefix) :].partition(".")[0] for name in state if name.startswith(prefix)})


def _clip(state: State) -> tuple[nn.Module, int, int]:
    """Stock CLIP with the state's weights, its picture size and grid."""
    ours = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    ours = {k: v for k, v in ours.items() if not k.startswith("visual.attn.")}
    ours = {re.sub(r"attn\.qkv\.(weight|bias)", r"attn.in_proj_\1", k): v for k, v in ours.items()}
    ours = {re.sub(r"attn\.proj\.(weight|bias)", r"attn.out_proj.\1", k): v for k, v in ours.items()}
    width, _, patch, _ = ours["visual.conv1.weight"].shape
    grid = math.isqrt(len(ours["visual.positional_embedding"]) - 1)
    text_width = len(ours["ln_final.weight"])
    clip = open_clip.model.CLIP(
        embed_dim=ours["text_projection"].shape[1],
        vision_cfg=open_clip.CLIPVisionCfg(
            layers=_layers(ours, "visual.transformer.resblocks."),
            width=width,
            head_width=64,
            patch_size=patch,
            image_size=grid * patch,
        ),
        text_cfg=open_clip.CLIPTextCfg(
            context_length=len(ours["positional_embedding"]),
            vocab_size=len(ours["token_embedding.weight"]),
            width=text_width,
            heads=text_width // 64,
            layers=_layers(ours, "transformer.resblocks."),
        ),
        quick_gelu=True,
    )
    clip.load_state_dict(ours, strict=True)
    return clip.eval(), grid * patch, grid


def _sam(state: State) -> Sam:
    """Stock SAM with the state's weights."""
    ours = {k.removeprefix("sam."): v for k, v in state.items() if k.startswith("sam.")}
    _, grid, _, width = ours["image_encoder.pos_embed"].shape
    patch = ours["image_encoder.patch_embed.proj.weight"].shape[-1]
    depth = _layers(ours, "image_encoder.blocks.")
    reach = [len(ours[f"image_encoder.blocks.{index}.attn.rel_pos_h"]) for index in range(depth)]
    prompt_width = ours["prompt_encoder.no_mask_embed.weight"].shape[1]
    cross = ours["mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight"]
    sam = Sam(
        ImageEncoderViT(
            img_size=grid * patch,
            patch_size=patch,
            embed_dim=width,
            depth=depth,
            num_heads=width // ours["image_encoder.blocks.0.attn.rel_pos_h"].shape[1],
            mlp_ratio=(len(ours["image_encoder.blocks.0.mlp.lin1.weight"]) + 0.5) / width,
            out_chans=prompt_width,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=min((rows + 1) // 2 for rows in reach),
            global_attn_indexes=[index for index, rows in enumerate(reach) if rows == 2 * grid - 1],
        ),
        PromptEncoder(
            prompt_width, (grid, grid), (grid * patch,) * 2, ours["prompt_encoder.mask_downscaling.3.weight"].shape[0]
        ),
        MaskDecoder(
            transformer_dim=prompt_width,
            transformer=TwoWayTransformer(
                depth=_layers(ours, "mask_decoder.transformer.layers."),
                embedding_dim=prompt_width,
                num_heads=8,
                mlp_dim=len(ours["mask_decoder.transformer.layers.0.mlp.lin1.weight"]),
                attention_downsample_rate=prompt_width // len(cross),
            ),
            num_multimask_outputs=len(ours["mask_decoder.mask_tokens.weight"]) - 1,
            iou_head_depth=_layers(ours, "mask_decoder.iou_prediction_head.layers."),
            iou_head_hidden_dim=len(ours["mask_decoder.iou_prediction_head.layers.0.weight"]),
        ),
    )
    sam.load_state_dict(ours, strict=True)
    return sam.eval()
