# Copyright 2026 The axforge authors. Licensed under the Apache License, Version 2.0.
"""A language model whose layers may differ, on the parts of modeling_axforge.py.

Travels beside that file inside exported model folders; load such a folder with
`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`. It generates with transformers' cache.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from .axforge_attention import AxforgeAttention, frequencies, turned
from .axforge_sparse_attention import sparse_attention
from .modeling_axforge import AxforgeConfig, AxforgePreNormLayer, AxforgePreTrainedModel, layer_norm


class CausalStep:
    """What one call's layers have in common: where its tokens are, what they may see, and the cache.

    positions: (batch or 1, length), as position embeddings and rotations count them; attention_mask: (batch,
    past + length) of 1 and 0, or None; past: tokens that the cache holds already.
    """

    def __init__(
        self, positions: Tensor, attention_mask: Tensor | None, past: int = 0, cache: Any = None
    ) -> None:
        self.positions, self.past, self.cache = positions, past, cache
        self._attention_mask = attention_mask
        self._masks: dict[int | None, Tensor] = {}
        self._turns: dict[float, tuple[Tensor, Tensor]] = {}

    def mask(self, window: int | None, like: Tensor) -> Tensor:
        """To add to scores, (batch or 1, 1, length, past + length): the lowest number for what is not seen.

        Not seen is what comes later, padding, and what is more than `window` tokens away. Finite, since a row
        of padding may see nothing.
        """
        if window not in self._masks:
            length, lowest = self.positions.shape[1], torch.finfo(like.dtype).min
            keys = torch.arange(self.past + length, device=like.device)
            away = keys[self.past :, None] - keys[None, :]
            hidden = (away < 0) if window is None else (away < 0) | (away > window)
            hidden = hidden[None, None]
            if self._attention_mask is not None:
                hidden = hidden | (self._attention_mask[:, None, None, :] == 0)
            self._masks[window] = torch.zeros((), dtype=like.dtype, device=like.device).masked_fill(
                hidden, lowest
            )
        return self._masks[window]

    def turns(self, theta: float, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (batch or 1, 1, length, head size) of the angles that tokens are turned by."""
        if theta not in self._turns:
            turned_by = frequencies(theta, like.shape[-1], like.device)
            angles = self.positions[:, None, :, None].float() * turned_by
            angles = torch.cat((angles, angles), dim=-1)
            self._turns[theta] = angles.cos().to(like.dtype), angles.sin().to(like.dtype)
        return self._turns[theta]


class CausalAttention(AxforgeAttention):
    """Attention to oneself and to what came before, with a cache; query heads may share keys and values.

    `config.causal`: `kv_group`, how many of the dense model's query heads share a head of keys and values;
    `output_bias`; `qk_norm`, whether queries and keys are normed head by head. `variant`: the dense model's
    numbers of the `heads` that are left, `window` as in `AxforgeAttention`, and the rotary base `theta`
    (None: nothing is turned). A head of keys and values is left as long as one of its query heads is, so that
    groups may be of different sizes. `place`: the number of the block among those with a cache.
    """

    def __init__(self, config: Any, heads: int, variant: dict[str, Any]) -> None:
        super().__init__(config, heads, variant)
        own, width, size = config.causal, config.hidden_size, config.head_size
        owners = [head // own["kv_group"] for head in variant["heads"]]
        kept = sorted(set(owners))
        self.kv_heads, self.kv_index = len(kept), [kept.index(owner) for owner in owners]
        self.theta: float | None = variant.get("theta")
        self.key = nn.Linear(width, self.kv_heads * size, bias=config.attention_bias)
        self.value = nn.Linear(width, self.kv_heads * size, bias=config.attention_bias)
        self.output = nn.Linear(heads * size, width, bias=own["output_bias"])
        normed = own["qk_norm"]
        self.query_norm: Any = nn.RMSNorm(size, eps=config.layer_norm_eps) if normed else None
        self.key_norm: Any = nn.RMSNorm(size, eps=config.layer_norm_eps) if normed else None
        self.place = 0

    def forward(self, hidden: Tensor, mask: Tensor | None, shared: Any = None) -> Tensor:
        """`shared` is the call's `CausalStep`, which knows the mask."""
        step: CausalStep = shared
        batch, length, _ = hidden.shape
        query, key, value = self.query(hidden), self.key(hidden), self.value(hidden)
        query = query.view(batch, length, self.heads, self.head_size)
        key = key.view(batch, length, self.kv_heads, self.head_size)
        if self.query_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        query, key = query.transpose(1, 2), key.transpose(1, 2)
        value = value.view(batch, length, self.kv_heads, self.head_size).transpose(1, 2)
        if self.theta is not None:
            cos, sin = step.turns(self.theta, query)
            query, key = turned(query, cos, sin), turned(key, cos, sin)
        if step.cache is not None:
            key, value = step.cache.update(key, value, self.place)
        if self.kv_index != list(range(self.heads)):
            key, value = key[:, self.kv_index], value[:, self.kv_index]
        seen, dropout = step.mask(self.window, hidden), self.dropout if self.training else 0.0
        if not self.sparse:
            context = F.scaled_dot_product_attention(query, key, value, seen, dropout, scale=self.scale)
        else:
            context = sparse_attention(query, key, value, seen, self.sparse, self.scale, dropout)
        contribution: Tensor = self.output(context.transpose(1, 2).reshape(batch, length, -1))
        return contribution


class AxforgeDecoderLayer(AxforgePreNormLayer):
    """A layer with norms before its blocks, whose tokens see no later ones."""

    def attention_block(self, config: AxforgeConfig, heads: int, variant: dict[str, Any]) -> AxforgeAttention:
        return CausalAttention(config, heads, variant)


class AxforgeWords(nn.Module):
    """The word embedding, a table of lower rank if `config.embedding_rank` says so."""

    def __init__(self, config: AxforgeConfig) -> None:
        super().__init__()
        rank, width = config.embedding_rank, config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, rank or width, padding_idx=config.pad_token_id)
        self.word_projection = None if rank is None else nn.Linear(rank, width, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden: Tensor = self.word_embeddings(input_ids)
        return hidden if self.word_projection is None else self.word_projection(hidden)

    def scores(self, hidden: Tensor) -> Tensor:
        """How well each word's embedding fits, (..., width) to (..., words): a tied head."""
        if self.word_projection is not None:
            hidden = hidden @ self.word_projection.weight
        return F.linear(hidden, self.word_embeddings.weight)


class AxforgeLMHead(nn.Module):
    """Logits of the next token: by a matrix of its own, `out`, or by the word embedding."""

    def __init__(self, config: AxforgeConfig) -> None:
        super().__init__()
        tied = (config.causal or {})["tied_head"]
        self.out = None if tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, hidden: Tensor, words: AxforgeWords) -> Tensor:
        logits: Tensor = words.scores(hidden) if self.out is None else self.out(hidden)
        return logits


class AxforgeForCausalLM(AxforgePreTrainedModel, GenerationMixin):
    """Words, positions, layers, a last norm, and the scores of what comes next."""

    def __init__(self, config: AxforgeConfig) -> None:
        super().__init__(config)
        self.embeddings = AxforgeWords(config)
        self.offset: int = (config.causal or {})["position_offset"]
        self.position_embeddings = (
            nn.Embedding(config.max_position_embeddings + self.offset, config.hidden_size)
            if config.positions == "absolute"
            else None
        )
        self.dropout = nn.Dropout(config.hidden_dropout)
        sizes = config.layer_heads, config.layer_channels
        kept = zip(*sizes, config.layer_variants, config.layer_ranks, strict=True)
        self.layers = nn.ModuleList(AxforgeDecoderLayer(config, *layer) for layer in kept)
        number_caches(self.layers)
        self.final_norm = layer_norm(config, config.hidden_size)
        self.lm_head = AxforgeLMHead(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings.word_embeddings = value

    def get_output_embeddings(self) -> nn.Module | None:
        return self.lm_head.out

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> Any:
        """`attention_mask` covers what the cache holds too; positions count its ones unless given."""
        caches = getattr(self.config, "use_cache", True) if use_cache is None else use_cache
        if caches and past_key_values is None:
            past_key_values = DynamicCache()
        step = self._step(input_ids, attention_mask, position_ids, past_key_values)
        states = self._hidden_states(input_ids, step)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(states[-1][:, kept], self.embeddings)
        output = CausalLMOutputWithPast(
            loss=None if labels is None else next_token_loss(logits, labels),
            logits=logits,
            past_key_values=past_key_values if caches else None,
            hidden_states=states if output_hidden_states else None,
        )
        return output if return_dict else output.to_tuple()

    def _step(
        self, input_ids: Tensor, mask: Tensor | None, position_ids: Tensor | None, cache: Any
    ) -> CausalStep:
        length = input_ids.shape[1]
        held = 0 if cache is None else cache.get_seq_length()
        past = held if mask is None else mask.shape[1] - length
        if position_ids is None and mask is not None:
            position_ids = (mask.long().cumsum(1) - 1).clamp_min(0)[:, past:]
        elif position_ids is None:
            position_ids = torch.arange(past, past + length, device=input_ids.device)[None]
        return CausalStep(position_ids, mask, past, cache)

    def _hidden_states(self, input_ids: Tensor, step: CausalStep) -> tuple[Tensor, ...]:
        """(batch, length, width): of the embeddings, then after every layer; the last one normed."""
        hidden = self.embeddings(input_ids)
        if self.position_embeddings is not None:
            hidden = hidden + self.position_embeddings(step.positions + self.offset)
        hidden = self.dropout(hidden)
        states = [hidden]
        for layer in self.layers:
            hidden = layer(hidden, None, step)
            states.append(hidden)
        states[-1] = self.final_norm(hidden)
        return tuple(states)


def number_caches(layers: Any) -> None:
    """Let the layers' attention blocks keep keys and values under 0, 1, ...: a layer without one has none."""
    blocks = [layer.attention for layer in layers if layer.attention is not None]
    for place, block in enumerate(blocks):
        block.place = place


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the token after each; `labels` are the tokens, -100 where not asked."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
