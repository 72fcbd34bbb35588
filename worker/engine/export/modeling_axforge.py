# Copyright 2026 The axforge authors. Licensed under the Apache License, Version 2.0.
"""A post-norm encoder whose layers may differ: fewer heads, fewer FFN channels, blocks removed.

Self-contained: it needs torch and transformers only, and travels inside exported model folders.
Load such a folder with `AutoModelForSequenceClassification.from_pretrained(folder,
trust_remote_code=True)`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import SequenceClassifierOutput


class AxforgeConfig(PretrainedConfig):
    """What is left of every layer, and how the source family embeds and classifies.

    `layer_heads[i]`, `layer_channels[i]`: how many heads and FFN channels layer i has; 0 means that
    the block was removed and only its layer norm remains. `layer_top_k[i]`: how many attention
    probabilities a row keeps (None: all). `layer_ranks[i]`: values between the two factors of its FFN
    matrices (None: whole matrices), `embedding_rank` those of a row of the word embedding.
    `type_vocab_size` 0: no token types. `positions`: "absolute" counts from 0, "after_padding" from
    `pad_token_id` + 1 and skips padding. `axforge` and `source_config` say which elements of the dense
    model these are; the forward pass does not read them.
    """

    model_type = "axforge"

    def __init__(
        self,
        vocab_size: int = 30522,
        hidden_size: int = 384,
        head_size: int = 32,
        layer_heads: tuple[int, ...] | list[int] = (),
        layer_channels: tuple[int, ...] | list[int] = (),
        layer_top_k: tuple[int | None, ...] | list[int | None] = (),
        layer_ranks: tuple[int | None, ...] | list[int | None] | None = None,
        embedding_rank: int | None = None,
        hidden_act: str = "gelu",
        max_position_embeddings: int = 512,
        type_vocab_size: int = 2,
        positions: str = "absolute",
        layer_norm_eps: float = 1e-12,
        hidden_dropout: float = 0.1,
        attention_dropout: float = 0.1,
        head_act: str = "tanh",
        head_dropout: float = 0.1,
        head_input_dropout: float = 0.0,
        initializer_range: float = 0.02,
        pad_token_id: int = 0,
        axforge: dict[str, Any] | None = None,
        source_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.head_size = head_size
        self.layer_heads = list(layer_heads)
        self.layer_channels = list(layer_channels)
        self.layer_top_k = list(layer_top_k)
        self.layer_ranks = [None] * len(self.layer_heads) if layer_ranks is None else list(layer_ranks)
        self.embedding_rank = embedding_rank
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.type_vocab_size = type_vocab_size
        self.positions = positions
        self.layer_norm_eps = layer_norm_eps
        self.hidden_dropout = hidden_dropout
        self.attention_dropout = attention_dropout
        self.head_act = head_act
        self.head_dropout = head_dropout
        self.head_input_dropout = head_input_dropout
        self.initializer_range = initializer_range
        self.axforge = axforge
        self.source_config = source_config
        super().__init__(pad_token_id=pad_token_id, **kwargs)


class LowRankLinear(nn.Module):
    """A linear module whose weight is the product of two thin matrices."""

    def __init__(self, inputs: int, rank: int, outputs: int) -> None:
        super().__init__()
        self.inner = nn.Linear(inputs, rank, bias=False)
        self.outer = nn.Linear(rank, outputs)

    def forward(self, hidden: Tensor) -> Tensor:
        outputs: Tensor = self.outer(self.inner(hidden))
        return outputs


def linear(inputs: int, outputs: int, rank: int | None) -> nn.Module:
    return nn.Linear(inputs, outputs) if rank is None else LowRankLinear(inputs, rank, outputs)


class AxforgeEmbeddings(nn.Module):
    def __init__(self, config: AxforgeConfig) -> None:
        super().__init__()
        width, pad = config.hidden_size, config.pad_token_id
        self.offset = pad if config.positions == "after_padding" else None
        rank = config.embedding_rank
        self.word_embeddings = nn.Embedding(config.vocab_size, rank or width, padding_idx=pad)
        self.word_projection = None if rank is None else nn.Linear(rank, width, bias=False)
        self.position_embeddings = nn.Embedding(
            config.max_position_embeddings, width, padding_idx=self.offset
        )
        if config.type_vocab_size:
            self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        hidden: Tensor = self.word_embeddings(input_ids)
        if self.word_projection is not None:
            hidden = self.word_projection(hidden)
        if hasattr(self, "token_type_embeddings"):
            if token_type_ids is None:
                hidden = hidden + self.token_type_embeddings.weight[0]
            else:
                hidden = hidden + self.token_type_embeddings(token_type_ids)
        hidden = self.dropout(self.LayerNorm(hidden + self._positions(input_ids)))
        return hidden

    def _positions(self, input_ids: Tensor) -> Tensor:
        if self.offset is None:
            return self.position_embeddings.weight[: input_ids.shape[1]]
        real = input_ids.ne(self.offset).long()
        counted: Tensor = self.position_embeddings(real.cumsum(1) * real + self.offset)
        return counted


def hard_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    top_k: int,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """Attention in which each row keeps its `top_k` largest probabilities, not renormalised.

    Probabilities equal to the k-th largest are all kept. Padded keys have probability 0, so they
    never take the place of a real one. `mask` is additive or boolean (True: attend).
    """
    scores = torch.matmul(query, key.transpose(-1, -2)) * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    probabilities = scores.softmax(-1)
    # Zeros behind the row keep top-k defined for rows shorter than k.
    padded = F.pad(probabilities, (0, top_k))
    threshold = padded.topk(top_k, dim=-1).values[..., -1:]
    kept = torch.where(probabilities >= threshold, probabilities, 0.0)
    return torch.matmul(F.dropout(kept, dropout), value)


class AxforgeAttention(nn.Module):
    """Multi-head attention of `heads` heads; reads and writes the full hidden width."""

    def __init__(self, config: AxforgeConfig, heads: int, hard_top_k: int | None) -> None:
        super().__init__()
        self.heads, self.head_size, self.hard_top_k = heads, config.head_size, hard_top_k
        self.dropout = config.attention_dropout
        width = heads * config.head_size
        self.query = nn.Linear(config.hidden_size, width)
        self.key = nn.Linear(config.hidden_size, width)
        self.value = nn.Linear(config.hidden_size, width)
        self.output = nn.Linear(width, config.hidden_size)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, _ = hidden.shape
        projected = (projection(hidden) for projection in (self.query, self.key, self.value))
        query, key, value = (
            one.view(batch, length, self.heads, self.head_size).transpose(1, 2) for one in projected
        )
        dropout, scale = self.dropout if self.training else 0.0, self.head_size**-0.5
        if self.hard_top_k is None:
            context = F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scale)
        else:
            context = hard_attention(query, key, value, mask, self.hard_top_k, scale, dropout)
        joined = context.transpose(1, 2).reshape(batch, length, self.heads * self.head_size)
        contribution: Tensor = self.output(joined)
        return contribution


class AxforgeLayer(nn.Module):
    """Attention and FFN block, each with residual path and layer norm; either may be missing."""

    def __init__(
        self,
        config: AxforgeConfig,
        heads: int,
        channels: int,
        hard_top_k: int | None,
        rank: int | None = None,
    ) -> None:
        super().__init__()
        width = config.hidden_size
        self.attention = AxforgeAttention(config, heads, hard_top_k) if heads else None
        self.attention_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.ffn_up = linear(width, channels, rank) if channels else None
        self.ffn_down = linear(channels, width, rank) if channels else None
        self.ffn_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        if self.attention is not None:
            hidden = hidden + self.dropout(self.attention(hidden, mask))
        hidden = self.attention_norm(hidden)
        if self.ffn_up is not None and self.ffn_down is not None:
            hidden = hidden + self.dropout(self.ffn_down(self.activation(self.ffn_up(hidden))))
        hidden = self.ffn_norm(hidden)
        return hidden


class AxforgeHead(nn.Module):
    """Classifies by the first token: dense, activation, dropout, out."""

    def __init__(self, config: AxforgeConfig) -> None:
        super().__init__()
        self.input_dropout = nn.Dropout(config.head_input_dropout)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.head_act]
        self.dropout = nn.Dropout(config.head_dropout)
        self.out = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, hidden: Tensor) -> Tensor:
        first = self.input_dropout(hidden[:, 0])
        logits: Tensor = self.out(self.dropout(self.activation(self.dense(first))))
        return logits


def additive_mask(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(batch, length) of 1 and 0 -> (batch, 1, 1, length) to add to scores: 0 where real."""
    return (1.0 - attention_mask[:, None, None, :].to(dtype)) * torch.finfo(dtype).min


class AxforgePreTrainedModel(PreTrainedModel):
    config_class = AxforgeConfig
    base_model_prefix = "axforge"
    _supports_sdpa = True


class AxforgeForSequenceClassification(AxforgePreTrainedModel):
    def __init__(self, config: AxforgeConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.embeddings = AxforgeEmbeddings(config)
        kept = zip(
            config.layer_heads, config.layer_channels, config.layer_top_k, config.layer_ranks, strict=True
        )
        self.layers = nn.ModuleList(AxforgeLayer(config, *layer) for layer in kept)
        self.head = AxforgeHead(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings.word_embeddings = value

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> Any:
        hidden = self.embeddings(input_ids, token_type_ids)
        mask = None if attention_mask is None else additive_mask(attention_mask, hidden.dtype)
        states = [hidden]
        for layer in self.layers:
            hidden = layer(hidden, mask)
            states.append(hidden)
        logits = self.head(hidden)
        output = SequenceClassifierOutput(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            hidden_states=tuple(states) if output_hidden_states else None,
        )
        return output if return_dict else output.to_tuple()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.num_labels == 1:
            return F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
        if labels.is_floating_point():
            return F.binary_cross_entropy_with_logits(logits, labels)
        return F.cross_entropy(logits, labels)
