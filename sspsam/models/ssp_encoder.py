"""The Semantic-Spatial Prompt encoder: from image and word features to prompts for SAM, and a box (section 3)."""

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sspsam.config import Architecture
from sspsam.models.layers import MLP, attend, linear


class LinguisticFeatures(NamedTuple):
    """What the linguistic attention adapter says about each expression; it depends on the words alone."""

    words: Tensor  # (E, L, H)
    word_attention: Tensor  # (E, L), sums to 1, 0 at padding
    sentence: Tensor  # (E, H)


class VisualFeatures(NamedTuple):
    """What the visual attention adapter says about each patch for each expression."""

    patches: Tensor  # (E, G*G, H)
    similarity: Tensor  # (E, G*G), in [0, 1]
    verification: Tensor  # (E, G*G)


class SSPOutput(NamedTuple):
    """Prompts for SAM, a box, and the maps that explain them."""

    prompts: Tensor  # (E, P, D)
    box: Tensor  # (E, 4), centre x, centre y, width, height, as fractions of CLIP's padded canvas
    similarity: Tensor  # (E, G*G)
    verification: Tensor  # (E, G*G)


class LinguisticAttentionAdapter(nn.Module):
    """Weighs the words of an expression with a bidirectional GRU.

    Args:
        text_width: width of CLIP's word features.
        hidden_width: H.
    """

    def __init__(self, text_width: int, hidden_width: int) -> None:
        super().__init__()
        self.word_projection = nn.Linear(text_width, hidden_width)
        self.gru = nn.GRU(hidden_width, hidden_width, batch_first=True, bidirectional=True)
        self.score = nn.Linear(2 * hidden_width, 1)

    def forward(self, words: Tensor, padding: Tensor) -> LinguisticFeatures:
        """Attend to the words.

        Args:
            words: (E, L, text width) from CLIP.
            padding: (E, L) bool, True where there is no word.
        """
        words = self.word_projection(words)  # (E, L, H)
        # only a CPU gains by knowing where the words end, and it need not wait for a GPU to tell
        end = _end(padding) if words.device.type == "cpu" else words.shape[1]
        scores = self.score(self._in_context(words, end)).squeeze(-1)  # (E, n)
        attention = scores.masked_fill(padding[:, :end], -torch.inf).softmax(dim=-1)
        sentence = torch.einsum("en,enh->eh", attention, words[:, :end])  # (E, H)
        return LinguisticFeatures(words, F.pad(attention, (0, words.shape[1] - end)), sentence)

    def _in_context(self, words: Tensor, end: int) -> Tensor:
        """What the GRU makes of the first n words, (E, L, H) -> (E, n, 2H).

        The backward half starts in the padding, as the authors' was trained to. The forward half need not go past the
        last word. Its steps wait for each other, which on a CPU is a tenth of the time of reading.
        """
        gru = self.gru
        if end == words.shape[1]:
            return cast(Tensor, gru(words)[0])  # both ways at once, which cuDNN is made for
        start = words.new_zeros(1, len(words), gru.hidden_size)
        ways = (words[:, :end], ""), (words.flip(1), "_reverse")
        forward, backward = (
            torch.gru(way, start, _weights(gru, suffix), True, 1, 0.0, False, False, True)[0] for way, suffix in ways
        )
        return torch.cat([forward, backward.flip(1)[:, :end]], dim=-1)


def _weights(gru: nn.GRU, suffix: str) -> list[Tensor]:
    """Those of one direction, in PyTorch's order."""
    return [getattr(gru, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


def _end(padding: Tensor) -> int:
    """The number of places up to the last word of the longest expression, of (E, L) bool; a "!" counts as padding."""
    return int(padding.logical_not().any(dim=0).nonzero().max()) + 1


class VisualAttentionAdapter(nn.Module):
    """Weighs the patches of a picture twice: by the sentence, then by the words with a Gaussian-like mapping.

    Args:
        embed_dim: C.
        hidden_width: H.
        heads: of the attention from patches to words.
        projection_layers: depth of the image projection.
    """

    def __init__(self, embed_dim: int, hidden_width: int, heads: int, projection_layers: int) -> None:
        super().__init__()
        self.image_projection = MLP(embed_dim, hidden_width, hidden_width, projection_layers)
        self.word_attention = nn.MultiheadAttention(hidden_width, heads, batch_first=True)
        self.verify_image = nn.Linear(hidden_width, hidden_width)
        self.verify_words = nn.Linear(hidden_width, hidden_width)
        self.norm = nn.LayerNorm(hidden_width)
        self.scale = nn.Parameter(torch.ones(1))
        self.sigma = nn.Parameter(torch.full((1,), 0.5))

    def project(self, features: Tensor) -> Tensor:
        """The first product of the image projection, (G*G, C) -> (G*G, H), without its bias.

        A patch is weighted by the sentence before it is projected; the product is linear, so that one does for all.
        """
        return linear(features, cast(nn.Linear, self.image_projection.layers[0]).weight)

    def forward(
        self, features: Tensor, projected: Tensor, sentence: Tensor, words: Tensor, padding: Tensor
    ) -> VisualFeatures:
        """Attend to the patches.

        Args:
            features: (G*G, C) of one picture, from CLIP.
            projected: (G*G, H), from `project`.
            sentence: (E, C), from CLIP.
            words: (E, L, H), from the linguistic attention adapter.
            padding: (E, L) bool, True where there is no word.
        """
        similarity = sentence @ features.T  # (E, G*G)
        low, high = similarity.amin(dim=-1, keepdim=True), similarity.amax(dim=-1, keepdim=True)
        similarity = (similarity - low) / (high - low)
        first, *others = self.image_projection.layers
        patches = torch.addcmul(cast(nn.Linear, first).bias, similarity.unsqueeze(-1), projected)  # (E, G*G, H)
        for layer in others:
            patches = layer(F.relu(patches))
        told = self._told(patches, words, padding)
        cosine = F.cosine_similarity(self.verify_image(patches), told, dim=-1)  # (E, G*G)
        verification = self.scale * torch.exp(-((1 - cosine) ** 2) / (2 * self.sigma**2))  # (E, G*G)
        return VisualFeatures(self.norm(patches) * verification.unsqueeze(-1), similarity, verification)

    def _told(self, patches: Tensor, words: Tensor, padding: Tensor) -> Tensor:
        """`verify_words` of what the attention from patches to words gives, (E, G*G, H).

        There are many patches and few words, so that no weight is multiplied with the patches: the words take the
        weight of the queries, of the output and of `verify_words` upon themselves. Of the stock attention's products
        with G*G rows, three of H x H, two of H x (heads * words) are left.
        """
        attention, heads = self.word_attention, self.word_attention.num_heads
        end = _end(padding)
        words, padding = words[:, :end], padding[:, :end]
        count, _, hidden = words.shape
        width = hidden // heads

        def through(x: Tensor, weight: Tensor) -> Tensor:
            """(E, n, H) words, (heads, H/heads, H) weights -> (E, heads * n, H), each head through its own."""
            by_head = x.view(count * end, heads, width).transpose(0, 1)  # (heads, E*n, H/heads)
            return (by_head @ weight).view(heads, count, end, hidden).transpose(0, 1).flatten(1, 2)

        of_queries, of_keys, of_values = attention.in_proj_weight.chunk(3)
        query_bias, _, value_bias = attention.in_proj_bias.chunk(3)  # the keys' adds the same to all words: no matter
        keys = linear(words, of_keys) / math.sqrt(width)  # (E, n, H)
        asked = through(keys, of_queries.view(heads, width, hidden))
        bias = (keys * query_bias).view(count, end, heads, width).sum(dim=-1).transpose(1, 2)  # (E, heads, n)
        bias = bias.masked_fill(padding.unsqueeze(1), -torch.inf).view(count, 1, heads * end)
        scores = torch.baddbmm(bias, patches, asked.transpose(1, 2))  # (E, G*G, heads * n)
        shares = scores.view(count, -1, heads, end).softmax(dim=-1).flatten(2)
        values = linear(words, of_values, value_bias)
        told = linear(through(values, attention.out_proj.weight.T.view(heads, width, hidden)), self.verify_words.weight)
        return torch.baddbmm(self.verify_words(attention.out_proj.bias), shares, told)


class PromptGeneratorLayer(nn.Module):
    """A post-norm transformer encoder layer whose position embedding joins queries and keys, never values."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm1 = nn.LayerNorm(width)
        self.mlp = MLP(width, mlp_width, width, 2)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, position: Tensor, wanted: int | None = None) -> Tensor:
        """(E, tokens, D), (tokens, D) -> (E, tokens, D), or (E, wanted, D) of the first so many tokens alone."""
        placed = x + position
        attended = attend(self.attention, placed[:, :wanted], placed, x)
        x = self.norm1(x[:, :wanted] + attended)
        return cast(Tensor, self.norm2(x + self.mlp(x)))


class PromptGenerator(nn.Module):
    """Turns fused patches into prompt tokens for SAM and one token for the box.

    Args:
        width: D.
        prompts: P.
        patches: G*G.
        layers: depth.
        heads: of each layer.
        mlp_width: hidden width of each layer's feed-forward part.
    """

    def __init__(self, width: int, prompts: int, patches: int, layers: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.prompts = prompts
        self.box_token = nn.Embedding(1, width)
        self.prompt_tokens = nn.Embedding(prompts, width)
        self.position = nn.Embedding(1 + prompts + patches, width)
        self.layers = nn.ModuleList(PromptGeneratorLayer(width, heads, mlp_width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, fused: Tensor) -> tuple[Tensor, Tensor]:
        """(E, G*G, D) fused patches -> the box token (E, D) and the prompts (E, P, D)."""
        learned = torch.cat([self.box_token.weight, self.prompt_tokens.weight])  # (1+P, D)
        x = torch.cat([learned.expand(len(fused), -1, -1), fused], dim=1)  # (E, 1+P+G*G, D)
        for layer in self.layers[:-1]:
            x = layer(x, self.position.weight)
        # of the last layer's output nobody reads the patches
        x = self.norm(self.layers[-1](x, self.position.weight, 1 + self.prompts))  # (E, 1+P, D)
        return x[:, 0], x[:, 1:]


class SSPEncoder(nn.Module):
    """Both adapters, their fusion, the prompt generator and the box head.

    Args:
        config: dimensions of the whole model.
    """

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        hidden, width, ssp = config.ssp.hidden_width, config.sam.prompt_width, config.ssp
        self.linguistic_attention_adapter = LinguisticAttentionAdapter(config.clip.text_width, hidden)
        self.visual_attention_adapter = VisualAttentionAdapter(
            config.clip.embed_dim, hidden, ssp.attention_heads, ssp.image_projection_layers
        )
        self.fusion = nn.Linear(hidden, width)
        self.prompt_generator = PromptGenerator(
            width,
            prompts=ssp.prompts,
            patches=config.clip.grid**2,
            layers=ssp.generator_layers,
            heads=ssp.generator_heads,
            mlp_width=ssp.generator_mlp_width,
        )
        self.box_head = MLP(width, width, 4, ssp.box_head_layers)

    def forward(
        self, features: Tensor, projected: Tensor, sentence: Tensor, language: LinguisticFeatures, padding: Tensor
    ) -> SSPOutput:
        """Prompts for E expressions on one picture.

        Args:
            features: (G*G, C) image features from CLIP.
            projected: (G*G, H), what `VisualAttentionAdapter.project` makes of them.
            sentence: (E, C) sentence features from CLIP.
            language: what the linguistic attention adapter made of the words.
            padding: (E, L) bool, True where there is no word.
        """
        visual = self.visual_attention_adapter(features, projected, sentence, language.words, padding)
        fused = self.fusion(visual.patches.tanh() * language.sentence.tanh().unsqueeze(1))  # (E, G*G, D)
        box_token, prompts = self.prompt_generator(fused)
        return SSPOutput(prompts, self.box_head(box_token).sigmoid(), visual.similarity, visual.verification)
