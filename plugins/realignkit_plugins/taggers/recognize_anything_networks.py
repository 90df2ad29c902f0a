"""RAM, RAM++ and Tag2Text as taggers: an image encoder, and a head that asks the image about every tag at once.

The captioning halves of the published models are not here. Names of parameters are those of the published files.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize, relu, scaled_dot_product_attention

from realignkit_plugins.taggers.recognize_anything_config import NetworkConfig
from realignkit_plugins.taggers.swin import SwinTransformer

LAYER_NORM_EPS = 1e-12


def build_network(config: NetworkConfig) -> TaggingNetwork:
    """The network of a config, with fresh weights (none at all under ``torch.device("meta")``)."""
    return {"ram": RAM, "ram_plus": RAMPlus, "tag2text": Tag2Text}[config.architecture](config)


class TaggingNetwork(nn.Module):
    """What all three share. Pixels float (B, 3, S, S), normalised, to logits float (B, tags)."""

    def __init__(self, config: NetworkConfig, encoder_width: int) -> None:
        super().__init__()
        self.config = config
        self.visual_encoder = SwinTransformer(
            config.image_size,
            config.patch_size,
            config.embed_dim,
            config.depths,
            config.num_heads,
            config.window_size,
        )
        self.tagging_head = TaggingHead(config, encoder_width)

    def image_embeds(self, pixels: Tensor) -> Tensor:
        """The tokens that tags look at, float (B, 1 + N, encoder width); the first is the pooled one."""
        return self.project(self.visual_encoder(pixels))

    def project(self, tokens: Tensor) -> Tensor:
        """The image encoder's tokens, float (B, 1 + N, vision width), as the tags look at them."""
        return tokens

    def queries(self, image_embeds: Tensor) -> Tensor:
        """One query for each tag, float (B or 1, tags, hidden)."""
        raise NotImplementedError

    def classify(self, tagging_embeds: Tensor) -> Tensor:
        """The head's output, float (B, tags, hidden), to logits, float (B, tags)."""
        raise NotImplementedError

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of every tag; a tag's probability is their sigmoid."""
        return self.tag(self.image_embeds(pixels))

    def tag(self, image_embeds: Tensor) -> Tensor:
        """Logits of every tag, float (B, tags), from :meth:`image_embeds`."""
        return self.classify(self.tagging_head(self.queries(image_embeds), image_embeds))


class RAM(TaggingNetwork):
    """Recognize Anything (arXiv:2306.03514): tags are text embeddings, image and tags meet in a common width."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config, config.label_size)
        self.label_embed = nn.Parameter(torch.randn(self._labels(config), config.label_size))
        same = config.hidden_size == config.label_size
        self.wordvec_proj = nn.Identity() if same else nn.Linear(config.label_size, config.hidden_size)
        self.image_proj = nn.Linear(config.vision_width, config.label_size)
        self.fc = nn.Linear(config.hidden_size, 1)

    @staticmethod
    def _labels(config: NetworkConfig) -> int:
        return config.num_tags

    def project(self, tokens: Tensor) -> Tensor:
        """To the width of the labels."""
        return self.image_proj(tokens)

    def queries(self, image_embeds: Tensor) -> Tensor:
        """The same for every image, (1, tags, hidden)."""
        return relu(self.wordvec_proj(self.label_embed))[None]

    def classify(self, tagging_embeds: Tensor) -> Tensor:
        """One classifier for all tags."""
        return self.fc(tagging_embeds).squeeze(-1)


class RAMPlus(RAM):
    """RAM++ (arXiv:2310.15200): each tag has several descriptions, and the image says how much each of them counts."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.reweight_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @staticmethod
    def _labels(config: NetworkConfig) -> int:
        return config.num_tags * config.descriptions_per_tag

    def queries(self, image_embeds: Tensor) -> Tensor:
        """Descriptions averaged with weights softmax(scale * <pooled image token, description>), (B, tags, hidden)."""
        pooled = normalize(image_embeds[:, 0], dim=-1)
        descriptions = self.label_embed.unflatten(0, (self.config.num_tags, -1))
        similarity = torch.einsum("bw,tdw->btd", pooled, descriptions)
        weights = (self.reweight_scale.exp() * similarity).softmax(-1)
        return relu(self.wordvec_proj(torch.einsum("btd,tdw->btw", weights, descriptions)))


class Tag2Text(TaggingNetwork):
    """Tag2Text (arXiv:2303.05657): tags are learned embeddings, each with a classifier of its own."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config, config.vision_width)
        self.label_embed = nn.Embedding(config.num_tags, config.hidden_size)
        self.fc = GroupWiseLinear(config.num_tags, config.hidden_size)

    def queries(self, image_embeds: Tensor) -> Tensor:
        """The same for every image, (1, tags, hidden)."""
        return self.label_embed.weight[None]

    def classify(self, tagging_embeds: Tensor) -> Tensor:
        """A classifier per tag."""
        return self.fc(tagging_embeds)


class GroupWiseLinear(nn.Module):
    """A row of weights and a bias for each tag (Query2Label, arXiv:2107.10834)."""

    def __init__(self, tags: int, width: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)
        self.W = nn.Parameter(torch.empty(1, tags, width).uniform_(-bound, bound))
        self.b = nn.Parameter(torch.empty(1, tags).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """(B, tags, width) to (B, tags)."""
        return (self.W * x).sum(-1) + self.b


class TaggingHead(nn.Module):
    """BERT's cross-attention and feed-forward layers, without self-attention: tags do not see each other."""

    def __init__(self, config: NetworkConfig, encoder_width: int) -> None:
        super().__init__()
        layers = nn.ModuleList(HeadLayer(config, encoder_width) for _ in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": layers})

    def forward(self, queries: Tensor, image_embeds: Tensor) -> Tensor:
        """Queries (B or 1, tags, hidden) and tokens (B, n, encoder width) to (B, tags, hidden)."""
        x = queries.expand(len(image_embeds), -1, -1)
        for layer in self.encoder["layer"].children():
            x = layer(x, image_embeds)
        return x


class HeadLayer(nn.Module):
    """Cross-attention and a feed-forward network, each followed by residual and norm."""

    def __init__(self, config: NetworkConfig, encoder_width: int) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.crossattention = nn.ModuleDict(
            {
                "self": CrossAttention(hidden, encoder_width, config.num_attention_heads),
                "output": AddAndNorm(hidden, hidden),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(hidden, inner)})
        self.output = AddAndNorm(inner, hidden)

    def forward(self, x: Tensor, image_embeds: Tensor) -> Tensor:
        """(B, tags, hidden), same shape out."""
        x = self.crossattention["output"](self.crossattention["self"](x, image_embeds), x)
        return self.output(gelu(self.intermediate["dense"](x)), x)


class CrossAttention(nn.Module):
    """Multi-head attention of tags (queries) to image tokens (keys and values)."""

    def __init__(self, hidden: int, encoder_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(encoder_width, hidden)
        self.value = nn.Linear(encoder_width, hidden)

    def forward(self, x: Tensor, image_embeds: Tensor) -> Tensor:
        """(B, tags, hidden), same shape out."""
        projected = (self.query(x), self.key(image_embeds), self.value(image_embeds))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in projected)
        return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class AddAndNorm(nn.Module):
    """norm(linear(x) + residual)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, LAYER_NORM_EPS)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """See the class."""
        return self.LayerNorm(self.dense(x) + residual)
