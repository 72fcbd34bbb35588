# Copyright 2026 The axforge authors. Licensed under the Apache License, Version 2.0.
"""An encoder whose layers may differ: fewer heads, fewer FFN channels, blocks removed.

Self-contained with `axforge_attention.py`, `axforge_sparse_attention.py` and `axforge_heads.py`: it needs
torch and transformers only, and travels inside exported model folders. Load such a folder with the auto
class of its task, such as
`AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import SequenceClassifierOutput

from .axforge_attention import AxforgeAttention, attention_class, position_module


class AxforgeConfig(PretrainedConfig):
    """What is left of every layer, and how the source family embeds, attends and classifies.

    `layer_heads[i]`, `layer_channels[i]`: how many heads and FFN channels layer i has; 0 means that
    the block was removed.
    `layer_ranks[i]`: values between the two factors of its FFN matrices (None: whole matrices),
    `embedding_rank` those of a row of the word embedding. `layer_variants[i]`: what else is its own, as
    its class in `axforge_attention.py` says. `layer_shares`: layers of the same number have the same
    weights (None: all have their own).

    `norm_placement`: "post", after the residual path, or "pre", before the block. `ffn`: "plain" or
    "gated". `positions`: what embeddings know of them: "absolute" counts from 0, "after_padding" from
    `pad_token_id` + 1 and skips padding, "none". `relative`: how attention knows them, a `kind` and its
    sizes (see `axforge_attention.py`), or None. `embedding_size`: of the embeddings, which are then
    projected to the hidden width (None: they have it). `type_vocab_size` 0: no token types in them.
    `pooling`: a head that answers once reads the "first" or "last" token, or the "mean" of all. `head_dense`:
    it has a linear module before that of its logits, which `head_bias`, `head_norm` and `head_act` speak of.
    `causal`: what a language model has of its own, see `axforge_decoder.py`; None of an encoder.
    `axforge` and `source_config` say which elements of the dense model these are; the forward pass
    does not read them.
    """

    model_type = "axforge"

    def __init__(
        self,
        vocab_size: int = 30522,
        hidden_size: int = 384,
        head_size: int = 32,
        layer_heads: tuple[int, ...] | list[int] = (),
        layer_channels: tuple[int, ...] | list[int] = (),
        layer_ranks: tuple[int | None, ...] | list[int | None] | None = None,
        layer_variants: list[dict[str, Any]] | None = None,
        layer_shares: list[int] | None = None,
        norm_placement: str = "post",
        norm_bias: bool = True,
        attention_bias: bool = True,
        ffn: str = "plain",
        ffn_bias: bool = True,
        embedding_rank: int | None = None,
        hidden_act: str = "gelu",
        max_position_embeddings: int = 512,
        type_vocab_size: int = 2,
        positions: str = "absolute",
        relative: dict[str, Any] | None = None,
        embedding_size: int | None = None,
        embedding_norm: bool = True,
        layer_norm_eps: float = 1e-12,
        hidden_dropout: float = 0.1,
        attention_dropout: float = 0.1,
        pooling: str = "first",
        head_dense: bool = True,
        head_bias: bool = True,
        head_norm: bool = False,
        head_act: str = "tanh",
        head_dropout: float = 0.1,
        head_input_dropout: float = 0.0,
        initializer_range: float = 0.02,
        pad_token_id: int = 0,
        axforge: dict[str, Any] | None = None,
        source_config: dict[str, Any] | None = None,
        causal: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.head_size = head_size
        self.layer_heads = list(layer_heads)
        self.layer_channels = list(layer_channels)
        self.layer_ranks = [None] * len(self.layer_heads) if layer_ranks is None else list(layer_ranks)
        self.layer_variants = layer_variants or [{} for _ in self.layer_heads]
        self.layer_shares = layer_shares
        self.norm_placement = norm_placement
        self.norm_bias = norm_bias
        self.attention_bias = attention_bias
        self.ffn = ffn
        self.ffn_bias = ffn_bias
        self.embedding_rank = embedding_rank
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.type_vocab_size = type_vocab_size
        self.positions = positions
        self.relative = relative
        self.embedding_size = embedding_size
        self.embedding_norm = embedding_norm
        self.layer_norm_eps = layer_norm_eps
        self.hidden_dropout = hidden_dropout
        self.attention_dropout = attention_dropout
        self.pooling = pooling
        self.head_dense = head_dense
        self.head_bias = head_bias
        self.head_norm = head_norm
        self.head_act = head_act
        self.head_dropout = head_dropout
        self.head_input_dropout = head_input_dropout
        self.initializer_range = initializer_range
        self.axforge = axforge
        self.source_config = source_config
        self.causal = causal
        # transformers ties weights only where this says so: here, those of layers that share.
        kwargs["tie_word_embeddings"] = layer_shares is not None
        super().__init__(pad_token_id=pad_token_id, **kwargs)

    @property
    def num_hidden_layers(self) -> int:
        """Blocks with a cache of keys and values: what transformers makes one by."""
        return sum(heads > 0 for heads in self.layer_heads)


class LowRankLinear(nn.Module):
    """A linear module whose weight is the product of two thin matrices."""

    def __init__(self, inputs: int, rank: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.inner = nn.Linear(inputs, rank, bias=False)
        self.outer = nn.Linear(rank, outputs, bias=bias)

    def forward(self, hidden: Tensor) -> Tensor:
        outputs: Tensor = self.outer(self.inner(hidden))
        return outputs


def linear(inputs: int, outputs: int, rank: int | None, bias: bool) -> nn.Module:
    if rank is None:
        return nn.Linear(inputs, outputs, bias=bias)
    return LowRankLinear(inputs, rank, outputs, bias)


class AxforgeEmbeddings(nn.Module):
    def __init__(self, config: AxforgeConfig) -> None:
        super().__init__()
        width, pad = config.embedding_size or config.hidden_size, config.pad_token_id
        self.offset = pad if config.positions == "after_padding" else None
        rank = config.embedding_rank
        self.word_embeddings = nn.Embedding(config.vocab_size, rank or width, padding_idx=pad)
        self.word_projection = None if rank is None else nn.Linear(rank, width, bias=False)
        if config.positions != "none":
            self.position_embeddings = nn.Embedding(
                config.max_position_embeddings, width, padding_idx=self.offset
            )
        if config.type_vocab_size:
            self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm: Any = layer_norm(config, width) if config.embedding_norm else None
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
        if hasattr(self, "position_embeddings"):
            hidden = hidden + self._positions(input_ids)
        hidden = self.dropout(hidden if self.LayerNorm is None else self.LayerNorm(hidden))
        return hidden

    def _positions(self, input_ids: Tensor) -> Tensor:
        if self.offset is None:
            return self.position_embeddings.weight[: input_ids.shape[1]]
        real = input_ids.ne(self.offset).long()
        counted: Tensor = self.position_embeddings(real.cumsum(1) * real + self.offset)
        return counted


class AxforgeLayer(nn.Module):
    """Attention and FFN block, each with residual path and layer norm; either may be missing.

    Norms come after the residual path; of a missing block only its norm remains.
    """

    def __init__(
        self,
        config: AxforgeConfig,
        heads: int,
        channels: int,
        variant: dict[str, Any] | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__()
        width, bias, variant = config.hidden_size, config.ffn_bias, variant or {}
        self.attention = self.attention_block(config, heads, variant) if heads else None
        self.attention_norm: Any = self.norm(config, bool(heads), variant.get("attention_norm", True))
        gated = config.ffn == "gated"
        self.ffn_gate: Any = linear(width, channels, rank, bias) if channels and gated else None
        self.ffn_up: Any = linear(width, channels, rank, bias) if channels else None
        self.ffn_down: Any = linear(channels, width, rank, bias) if channels else None
        self.ffn_norm: Any = self.norm(config, bool(channels))
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout)

    def attention_block(self, config: AxforgeConfig, heads: int, variant: dict[str, Any]) -> AxforgeAttention:
        return attention_class(config.relative)(config, heads, variant)

    def norm(self, config: AxforgeConfig, present: bool, normed: bool = True) -> nn.Module | None:
        """The norm of a block that is present or not."""
        return layer_norm(config, config.hidden_size)

    def forward(self, hidden: Tensor, mask: Tensor | None, shared: Any = None) -> Tensor:
        if self.attention is not None:
            hidden = hidden + self.dropout(self.attention(hidden, mask, shared))
        hidden = self.attention_norm(hidden)
        if self.ffn_down is not None:
            hidden = hidden + self.dropout(self.ffn(hidden))
        hidden = self.ffn_norm(hidden)
        return hidden

    def ffn(self, hidden: Tensor) -> Tensor:
        """down(act(up x)), or down(act(gate x) * up x)."""
        up: Tensor = self.ffn_up(hidden)
        inner = self.activation(up) if self.ffn_gate is None else self.activation(self.ffn_gate(hidden)) * up
        fed: Tensor = self.ffn_down(inner)
        return fed


class AxforgePreNormLayer(AxforgeLayer):
    """Norms come before the blocks, inside the residual path; of a missing block nothing remains."""

    def norm(self, config: AxforgeConfig, present: bool, normed: bool = True) -> nn.Module | None:
        return layer_norm(config, config.hidden_size) if present and normed else None

    def forward(self, hidden: Tensor, mask: Tensor | None, shared: Any = None) -> Tensor:
        if self.attention is not None:
            given = hidden if self.attention_norm is None else self.attention_norm(hidden)
            hidden = hidden + self.dropout(self.attention(given, mask, shared))
        if self.ffn_norm is not None:
            hidden = hidden + self.dropout(self.ffn(self.ffn_norm(hidden)))
        return hidden


class AxforgeHead(nn.Module):
    """Answers to vectors (..., width) by (..., outputs): dense, activation, norm, dropout, out.

    Without `config.head_dense` only the last two.
    """

    def __init__(self, config: AxforgeConfig, outputs: int) -> None:
        super().__init__()
        width, dense = config.hidden_size, config.head_dense
        self.input_dropout = nn.Dropout(config.head_input_dropout)
        self.dense = nn.Linear(width, width, bias=config.head_bias) if dense else None
        self.activation = ACT2FN[config.head_act]
        self.norm = layer_norm(config, width) if dense and config.head_norm else None
        self.dropout = nn.Dropout(config.head_dropout)
        self.out = nn.Linear(width, outputs)

    def forward(self, given: Tensor) -> Tensor:
        if self.dense is not None:
            given = self.activation(self.dense(self.input_dropout(given)))
        logits: Tensor = self.out(self.dropout(given if self.norm is None else self.norm(given)))
        return logits


def pooled(hidden: Tensor, attention_mask: Tensor | None, pooling: str) -> Tensor:
    """(batch, length, width) to (batch, width): the first token, the last real one, or the mean of those."""
    if pooling == "first":
        return hidden[:, 0]
    if attention_mask is None:
        return hidden[:, -1] if pooling == "last" else hidden.mean(1)
    if pooling == "last":
        places = torch.arange(hidden.shape[1], device=hidden.device)
        last = (attention_mask * places).argmax(1)
        return hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[2])).squeeze(1)
    real = attention_mask.to(hidden.dtype)
    return (hidden * real[:, :, None]).sum(1) / real.sum(1, keepdim=True)


def layer_norm(config: AxforgeConfig, width: int) -> nn.Module:
    if config.causal is not None and config.causal["norm"] == "rms":
        return nn.RMSNorm(width, eps=config.layer_norm_eps)
    return nn.LayerNorm(width, eps=config.layer_norm_eps, bias=config.norm_bias)


def layer_class(config: AxforgeConfig) -> type[AxforgeLayer]:
    """The layer of a config's `norm_placement`."""
    return AxforgePreNormLayer if config.norm_placement == "pre" else AxforgeLayer


def additive_mask(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(batch, length) of 1 and 0 -> (batch, 1, 1, length) to add to scores: 0 where real."""
    return (1.0 - attention_mask[:, None, None, :].to(dtype)) * torch.finfo(dtype).min


class AxforgePreTrainedModel(PreTrainedModel):
    config_class = AxforgeConfig
    base_model_prefix = "axforge"
    _supports_sdpa = True


class AxforgeEncoder(AxforgePreTrainedModel):
    """Embeddings, layers and head; subclasses, here and in axforge_heads.py, say what the head reads."""

    def __init__(self, config: AxforgeConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.embeddings = AxforgeEmbeddings(config)
        width = config.embedding_size
        self.projection = None if width is None else nn.Linear(width, config.hidden_size)
        self.relative = position_module(config)
        sizes = config.layer_heads, config.layer_channels
        kept = zip(*sizes, config.layer_variants, config.layer_ranks, strict=True)
        self.layers = nn.ModuleList(layer_class(config)(config, *layer) for layer in kept)
        pre_norm = config.norm_placement == "pre"
        self.final_norm = layer_norm(config, config.hidden_size) if pre_norm else None
        self.head = AxforgeHead(config, self.outputs(config))
        self._tied_weights_keys = self._shared_weights()
        self.post_init()

    @staticmethod
    def outputs(config: AxforgeConfig) -> int:
        """How many numbers the head answers by."""
        outputs: int = config.num_labels
        return outputs

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings.word_embeddings = value

    def hidden_states(
        self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None
    ) -> tuple[Tensor, ...]:
        """(batch, length, width): of the embeddings, then after every layer; the last one normed."""
        hidden = self.embeddings(input_ids, token_type_ids)
        if self.projection is not None:
            hidden = self.projection(hidden)
        mask = None if attention_mask is None else additive_mask(attention_mask, hidden.dtype)
        shared = None if self.relative is None else self.relative(input_ids, token_type_ids)
        states = [hidden]
        for layer in self.layers:
            hidden = layer(hidden, mask, shared)
            states.append(hidden)
        if self.final_norm is not None:
            states[-1] = self.final_norm(hidden)
        return tuple(states)

    def _shared_weights(self) -> dict[str, str]:
        """For each weight of a layer that shares: the same weight of the first layer it shares with."""
        shares = self.config.layer_shares or list(range(len(self.layers)))
        return {
            f"layers.{number}.{name}": f"layers.{shares.index(share)}.{name}"
            for number, share in enumerate(shares)
            if shares.index(share) < number
            for name, _ in self.layers[number].named_parameters()
        }


class AxforgeForSequenceClassification(AxforgeEncoder):
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
        states = self.hidden_states(input_ids, attention_mask, token_type_ids)
        logits = self.head(pooled(states[-1], attention_mask, self.config.pooling))
        output = SequenceClassifierOutput(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            hidden_states=states if output_hidden_states else None,
        )
        return output if return_dict else output.to_tuple()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.num_labels == 1:
            return F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
        if labels.is_floating_point():
            return F.binary_cross_entropy_with_logits(logits, labels)
        return F.cross_entropy(logits, labels)
