"""SSP-SAM computed literally from its definition on stock modules: one expression at a time, without any caching.

This is the baseline of the benchmarks and the second implementation that the tests compare `sspsam` with. It does not
import `sspsam`: it takes a checkpoint with the authors' tensor names (docs/method.md, section 6) and computes the
method section by section with stock `open_clip` and `segment_anything` modules and plain functions.
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
    """Results for one expression, with intermediate values, named as in the golden files."""

    clip_input: Tensor  # (3, S, S)
    similarity: Tensor  # (G, G)
    word_attention: Tensor  # (L,)
    verify: Tensor  # (G*G,)
    prompts: Tensor  # (P, D)
    box_norm: Tensor  # (4,) centre x, y, width, height, as fractions of CLIP's square
    box_xyxy: Tensor  # (4,) x0, y0, x1, y1 in pixels of the image
    low_res: Tensor  # (M, M) logits
    iou_pred: Tensor  # (1,)
    logits512: Tensor  # (512, 512)


class AuthorsWay:
    """The whole computation for one checkpoint.

    Args:
        state: the `model` entry of an authors' checkpoint.
        surgery_layers: number of the last vision blocks that compute two paths (docs/method.md, section 2).
    """

    def __init__(self, state: State, surgery_layers: int = 6) -> None:
        self.state = state
        self.surgery_layers = surgery_layers
        self.clip, self.size, self.grid = _clip(state)
        self.sam = _sam(state)
        self.gru, self.patch_to_word_attention, self.generator = self._attention_modules()
        self.tokenize = open_clip.tokenizer.SimpleTokenizer(context_length=self.clip.context_length)

    def to(self, device: torch.device) -> "AuthorsWay":
        """Move all weights to a device."""
        for module in (self.clip, self.sam, self.gru, self.patch_to_word_attention, self.generator):
            module.to(device)
        self.state = {name: tensor.to(device) for name, tensor in self.state.items()}
        return self

    @torch.no_grad()
    def encode_image(self, image: Image.Image) -> Tensor:
        """SAM's embedding of an RGB image, (1, D, g, g)."""
        resized = ResizeLongestSide(self.sam.image_encoder.img_size).apply_image(np.array(image))
        pixels = torch.as_tensor(resized, device=self.sam.device).permute(2, 0, 1)[None]
        embedding: Tensor = self.sam.image_encoder(self.sam.preprocess(pixels))
        return embedding

    @torch.no_grad()
    def __call__(self, image: Image.Image, text: str, embedding: Tensor | None = None) -> Answer:
        """Answer one expression about an RGB image.

        Args:
            image: RGB.
            text: the expression.
            embedding: from `encode_image`; None: SAM encodes the image again.
        """
        ids = self.tokenize(f"{text.strip().lower()}.").to(self.sam.device)  # (1, L)
        pixels, corner, ratio = self._clip_input(image)
        patches, words, similarity = self._clip_features(pixels[None].to(self.sam.device), ids)
        rows, attention, verify = self._ssp(patches, words, ids)
        box = self._mlp("bbox_embed", rows[:, 0], self._count("bbox_embed.layers.")).sigmoid()[0]
        prompts = rows[:, 1 : 1 + len(self.state["prompt_token.weight"])]  # (1, P, D)
        low_res, iou = self._decode(self.encode_image(image) if embedding is None else embedding, prompts)
        return Answer(
            clip_input=pixels,
            similarity=similarity[0, :, 0].view(self.grid, self.grid),
            word_attention=attention[0],
            verify=verify[0],
            prompts=prompts[0],
            box_norm=box,
            box_xyxy=self._box_in_image(box, corner, ratio, image.size),
            low_res=low_res[0, 0],
            iou_pred=iou[0],
            logits512=self._logits512(low_res)[0, 0],
        )

    def _clip_features(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute docs/method.md, section 2, and the weighting of patches by similarity in section 3.

        Returns:
            (1, G*G, H) projected patches, (1, L, W) words, (1, G*G, 1) similarity.
        """
        features = self._image_features(pixels)  # (1, 1 + G*G, C)
        words, sentence = self._text_features(ids)
        similarity = features[:, 1:] @ sentence[:, :, None]  # (1, G*G, 1)
        low, high = similarity.amin(1, keepdim=True), similarity.amax(1, keepdim=True)
        similarity = (similarity - low) / (high - low)
        patches = self._mlp("clip_img_proj", features[:, 1:] * similarity, self._count("clip_img_proj.layers."))
        return patches, words, similarity

    def _ssp(self, patches: Tensor, words: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the SSP encoder up to its prompt generator, docs/method.md, section 3.

        Returns:
            (1, 1 + P + G*G, D) rows of the prompt generator, (1, L) word attention, (1, G*G) verification.
        """
        tokens = F.linear(words, self.state["clip_proj.weight"], self.state["clip_proj.bias"])  # (1, L, H)
        attention = self._word_attention(tokens, ids)
        sentence = (attention[..., None] * tokens).sum(1)  # (1, H)
        verify = self._verify(patches, tokens, ids)
        gated = F.layer_norm(patches, patches.shape[-1:], self.state["norm_img.weight"], self.state["norm_img.bias"])
        gated = gated * verify[..., None]
        fused = F.linear(gated.tanh() * sentence.tanh()[:, None], self.state["mlp.weight"], self.state["mlp.bias"])
        return self._generate(fused), attention, verify

    def _clip_input(self, image: Image.Image) -> tuple[Tensor, tuple[int, int], tuple[float, float]]:
        """(3, S, S) canvas, left and top of the image in it, and its horizontal and vertical scale."""
        width, height = image.size
        new = [round(side * self.size / max(width, height)) for side in (height, width)]
        tensor = TF.to_tensor(TF.resize(image, new))
        tensor = TF.normalize(tensor, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
        top, left = (round((self.size - side) / 2 - 0.1) for side in new)
        canvas = torch.zeros(3, self.size, self.size)
        canvas[:, top : top + new[0], left : left + new[1]] = tensor
        return canvas, (left, top), (new[1] / width, new[0] / height)

    def _image_features(self, x: Tensor) -> Tensor:
        """(1, 3, S, S) -> (1, 1 + G*G, C) features, normalised along the tokens; CLIP surgery in the last blocks."""
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
        normalized: Tensor = features / features.norm(dim=1, keepdim=True)
        return normalized

    @staticmethod
    def _attend(attention: nn.MultiheadAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = attention.num_heads
        q, k, v = (x.reshape(*x.shape[:-1], heads, -1).transpose(1, 2) for x in (q, k, v))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        attended: Tensor = attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
        return attended

    def _text_features(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(1, L) token ids -> (1, L, W) words, (1, C) sentence of unit length."""
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
        attended, _ = self.patch_to_word_attention(patches, tokens, tokens, key_padding_mask=ids == 0)
        image, attended_words = self._mlp("img_proj", patches, 1), self._mlp("imgtext_proj", attended, 1)
        cosine = (F.normalize(image, dim=-1) * F.normalize(attended_words, dim=-1)).sum(-1)
        sigma = self.state["tf_sigma"]
        return self.state["tf_scale"] * torch.exp(-((1 - cosine) ** 2) / (2 * sigma**2))

    def _generate(self, fused: Tensor) -> Tensor:
        x = torch.cat([self.state["reg_token.weight"], self.state["prompt_token.weight"], fused[0]])[:, None]
        position = self.state["vl_pos_embed.weight"][:, None]
        width = x.shape[-1]
        for index, attention in enumerate(self.generator):
            weights = self._with_prefix(f"vl_transformer.encoder.layers.{index}.")
            x = x + attention(x + position, x + position, x)[0]
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

    def _logits512(self, low_res: Tensor) -> Tensor:
        """(1, 1, M, M) logits -> (1, 1, 512, 512), docs/method.md, section 5."""
        in_sam_square = (self.sam.image_encoder.img_size,) * 2
        upsampled = F.interpolate(low_res, in_sam_square, mode="bilinear", align_corners=False)
        return F.interpolate(upsampled, (512, 512), mode="bilinear", align_corners=False)

    def _box_in_image(
        self, box: Tensor, corner: tuple[int, int], ratio: tuple[float, float], size: tuple[int, int]
    ) -> Tensor:
        """(4,) box as fractions of CLIP's square -> corners in pixels of the image, clipped to it."""
        x, y, w, h = box.double()
        corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) * self.size
        corners = corners.cpu()
        inside = (corners - torch.tensor([*corner, *corner])).clamp(min=0) / torch.tensor([*ratio, *ratio]).double()
        return torch.minimum(inside, torch.tensor([*size, *size]))

    def _attention_modules(self) -> tuple[nn.GRU, nn.MultiheadAttention, nn.ModuleList]:
        """GRU, attention from patches to words, and attention of each layer of the prompt generator."""
        hidden = len(self.state["norm_img.weight"])
        gru = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)
        gru.load_state_dict(self._with_prefix("text_proj."))
        word_attention = nn.MultiheadAttention(hidden, 8, batch_first=True)
        word_attention.load_state_dict(self._with_prefix("img2text_attn."))
        generator = nn.ModuleList()
        for index in range(self._count("vl_transformer.encoder.layers.")):
            attention = nn.MultiheadAttention(len(self.state["norm.weight"]), 8)
            attention.load_state_dict(self._with_prefix(f"vl_transformer.encoder.layers.{index}.self_attn."))
            generator.append(attention)
        return gru.eval(), word_attention.eval(), generator.eval()

    def _mlp(self, name: str, x: Tensor, layers: int) -> Tensor:
        for index in range(layers):
            weight, bias = (self.state[f"{name}.layers.{index}.{leaf}"] for leaf in ("weight", "bias"))
            x = F.linear(x, weight, bias)
            x = F.relu(x) if index < layers - 1 else x
        return x

    def _with_prefix(self, prefix: str) -> State:
        """Tensors whose names begin with a prefix, without the prefix."""
        return {name.removeprefix(prefix): tensor for name, tensor in self.state.items() if name.startswith(prefix)}

    def _count(self, prefix: str) -> int:
        return _count(self.state, prefix)


def _count(state: State, prefix: str) -> int:
    """Number of modules `prefix`0, `prefix`1, ..."""
    return len({name[len(prefix) :].partition(".")[0] for name in state if name.startswith(prefix)})


def _stock_clip_weights(state: State) -> State:
    """CLIP's weights with stock names: the authors' files may hold the names of rewritten attention modules."""
    weights = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    weights = {k: v for k, v in weights.items() if not k.startswith("visual.attn.")}
    weights = {re.sub(r"attn\.qkv\.(weight|bias)", r"attn.in_proj_\1", k): v for k, v in weights.items()}
    return {re.sub(r"attn\.proj\.(weight|bias)", r"attn.out_proj.\1", k): v for k, v in weights.items()}


def _clip(state: State) -> tuple[open_clip.model.CLIP, int, int]:
    """Stock CLIP with the weights of a state, the side of its canvas and of its patch grid."""
    weights = _stock_clip_weights(state)
    width, _, patch, _ = weights["visual.conv1.weight"].shape
    grid = math.isqrt(len(weights["visual.positional_embedding"]) - 1)
    text_width = len(weights["ln_final.weight"])
    clip = open_clip.model.CLIP(
        embed_dim=weights["text_projection"].shape[1],
        vision_cfg=open_clip.CLIPVisionCfg(
            layers=_count(weights, "visual.transformer.resblocks."),
            width=width,
            head_width=64,
            patch_size=patch,
            image_size=grid * patch,
        ),
        text_cfg=open_clip.CLIPTextCfg(
            context_length=len(weights["positional_embedding"]),
            vocab_size=len(weights["token_embedding.weight"]),
            width=text_width,
            heads=text_width // 64,
            layers=_count(weights, "transformer.resblocks."),
        ),
        quick_gelu=True,
    )
    clip.load_state_dict(weights, strict=True)
    return clip.eval(), grid * patch, grid


def _sam(state: State) -> Sam:
    """Stock SAM with the weights of a state."""
    weights = {name.removeprefix("sam."): tensor for name, tensor in state.items() if name.startswith("sam.")}
    image_encoder = _sam_image_encoder(weights)
    side, patch = image_encoder.img_size, weights["image_encoder.patch_embed.proj.weight"].shape[-1]
    prompt_encoder = PromptEncoder(
        embed_dim=weights["prompt_encoder.no_mask_embed.weight"].shape[1],
        image_embedding_size=(side // patch,) * 2,
        input_image_size=(side,) * 2,
        mask_in_chans=weights["prompt_encoder.mask_downscaling.3.weight"].shape[0],
    )
    sam = Sam(image_encoder, prompt_encoder, _sam_mask_decoder(weights))
    sam.load_state_dict(weights, strict=True)
    return sam.eval()


def _sam_image_encoder(weights: State) -> ImageEncoderViT:
    _, grid, _, width = weights["image_encoder.pos_embed"].shape
    patch = weights["image_encoder.patch_embed.proj.weight"].shape[-1]
    depth = _count(weights, "image_encoder.blocks.")
    # a block has 2 * side - 1 relative positions, where side is that of its window, or the grid for global attention
    positions = [len(weights[f"image_encoder.blocks.{index}.attn.rel_pos_h"]) for index in range(depth)]
    return ImageEncoderViT(
        img_size=grid * patch,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=width // weights["image_encoder.blocks.0.attn.rel_pos_h"].shape[1],
        mlp_ratio=(len(weights["image_encoder.blocks.0.mlp.lin1.weight"]) + 0.5) / width,
        out_chans=weights["prompt_encoder.no_mask_embed.weight"].shape[1],
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=min((rows + 1) // 2 for rows in positions),
        global_attn_indexes=[index for index, rows in enumerate(positions) if rows == 2 * grid - 1],
    )


def _sam_mask_decoder(weights: State) -> MaskDecoder:
    width = weights["prompt_encoder.no_mask_embed.weight"].shape[1]
    cross_attention = weights["mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight"]
    transformer = TwoWayTransformer(
        depth=_count(weights, "mask_decoder.transformer.layers."),
        embedding_dim=width,
        num_heads=8,
        mlp_dim=len(weights["mask_decoder.transformer.layers.0.mlp.lin1.weight"]),
        attention_downsample_rate=width // len(cross_attention),
    )
    return MaskDecoder(
        transformer_dim=width,
        transformer=transformer,
        num_multimask_outputs=len(weights["mask_decoder.mask_tokens.weight"]) - 1,
        iou_head_depth=_count(weights, "mask_decoder.iou_prediction_head.layers."),
        iou_head_hidden_dim=len(weights["mask_decoder.iou_prediction_head.layers.0.weight"]),
    )
