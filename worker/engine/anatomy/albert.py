"""ALBERT: layers that share their weights, narrow embeddings that are projected to the hidden width.

An ALBERT stays one: whatever is taken from a layer is taken from all that share its weights, and the
weights count once. Only how often they are applied is each layer's own: layers are dropped one by one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import (
    AlbertForMultipleChoice,
    AlbertForQuestionAnswering,
    AlbertForSequenceClassification,
    AlbertForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from worker.engine.anatomy.bert import bert_heads
from worker.engine.anatomy.families import Family, LayerNames

GROUPS = "albert_layer_groups"


def _variant(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "hidden_act": config.hidden_act,
        "max_position_embeddings": config.max_position_embeddings,
        "type_vocab_size": config.type_vocab_size,
        "embedding_size": config.embedding_size,
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_dropout": config.hidden_dropout_prob,
        "attention_dropout": config.attention_probs_dropout_prob,
        "head_dropout": config.classifier_dropout_prob,
        "initializer_range": config.initializer_range,
        "pad_token_id": config.pad_token_id,
    }


def _refusal(config: Mapping[str, Any]) -> str | None:
    inner = config.get("inner_group_num", 1)
    return None if inner == 1 else f"repeats {inner} layers inside each of its layers (inner_group_num)"


def _shares(config: PreTrainedConfig) -> tuple[int, ...]:
    layers, groups = config.num_hidden_layers, config.num_hidden_groups
    return tuple(_group(layer, layers, groups) for layer in range(layers))


def _group(layer: int, layers: int, groups: int) -> int:
    """Which weights layer `layer` of `layers` applies: the same arithmetic as in transformers."""
    return int(layer / (layers / groups))


def _native_fields(config: PreTrainedConfig, present: Sequence[int]) -> Mapping[str, Any] | None:
    """Groups must be applied equally often, as in the dense model, to be told by their number alone."""
    shares = _shares(config)
    left = list(dict.fromkeys(shares[layer] for layer in present))
    wanted = [left[_group(place, len(present), len(left))] for place in range(len(present))]
    fits = wanted == [shares[layer] for layer in present]
    return {"num_hidden_groups": len(left)} if fits else None


def _unroll(model: PreTrainedModel) -> None:
    """Give each layer modules of its own, with the parameters of those that it shares with.

    Hooks then tell one layer from another. The model computes as before, its parameters are as many as
    before, and it is saved and loaded as before: state dicts have each group once.
    """
    encoder: Any = model.get_submodule("albert.encoder")
    if isinstance(encoder.config, _Counts):
        return
    groups, shares = list(encoder.albert_layer_groups), _shares(encoder.config)
    encoder.albert_layer_groups = nn.ModuleList(_view(groups[share]) for share in shares)
    encoder.config = _Counts(encoder)
    first = {share: shares.index(share) for share in reversed(shares)}
    encoder.register_state_dict_post_hook(
        lambda module, state, prefix, metadata: _folded(state, f"{prefix}{GROUPS}.", first)
    )
    encoder.register_load_state_dict_pre_hook(
        lambda module, state, prefix, *rest: _unfolded(state, f"{prefix}{GROUPS}.", shares)
    )


class _Counts:
    """What the encoder reads of its config: it applies each module of its list once."""

    def __init__(self, encoder: Any) -> None:
        self._modules = encoder._modules

    @property
    def num_hidden_layers(self) -> int:
        return len(self._modules[GROUPS])

    num_hidden_groups = num_hidden_layers


def _view(group: nn.Module) -> nn.Module:
    """A copy of the module tree that has the very parameters, and config, of the original."""
    kept: list[Any] = [*group.parameters()]
    kept += [module.config for module in group.modules() if hasattr(module, "config")]
    return copy.deepcopy(group, {id(one): one for one in kept})


def _folded(state: dict[str, Tensor], prefix: str, first: Mapping[int, int]) -> None:
    """Leave each group once, under its own number instead of its layers'."""
    names = [name for name in state if name.startswith(prefix)]
    layers: dict[int, dict[str, Tensor]] = {}
    for name in names:
        layer, _, rest = name.removeprefix(prefix).partition(".")
        layers.setdefault(int(layer), {})[rest] = state.pop(name)
    for number, share in enumerate(sorted(first)):
        for rest, weight in layers[first[share]].items():
            state[f"{prefix}{number}.{rest}"] = weight


def _unfolded(state: dict[str, Tensor], prefix: str, shares: Sequence[int]) -> None:
    """Name each group's weights for every layer that applies it."""
    names = [name for name in state if name.startswith(prefix)]
    groups: dict[int, dict[str, Tensor]] = {}
    for name in names:
        group, _, rest = name.removeprefix(prefix).partition(".")
        groups.setdefault(int(group), {})[rest] = state.pop(name)
    numbers = {share: number for number, share in enumerate(sorted(set(shares)))}
    for layer, share in enumerate(shares):
        for rest, weight in groups.get(numbers[share], {}).items():
            state[f"{prefix}{layer}.{rest}"] = weight


ALBERT = Family(
    model_types=("albert",),
    model_class=AlbertForSequenceClassification,
    layers=f"albert.encoder.{GROUPS}",
    names=LayerNames(
        attention="albert_layers.0.attention",
        query="albert_layers.0.attention.query",
        key="albert_layers.0.attention.key",
        value="albert_layers.0.attention.value",
        attention_output="albert_layers.0.attention.dense",
        attention_norm="albert_layers.0.attention.LayerNorm",
        ffn_up="albert_layers.0.ffn",
        ffn_down="albert_layers.0.ffn_output",
        ffn_norm="albert_layers.0.full_layer_layer_norm",
    ),
    embeddings="albert.embeddings",
    head_dense="albert.pooler",
    head_out="classifier",
    other_heads=bert_heads(
        AlbertForTokenClassification,
        AlbertForQuestionAnswering,
        AlbertForMultipleChoice,
        "albert.pooler",
    ),
    extras={"projection": "albert.encoder.embedding_hidden_mapping_in"},
    variant=_variant,
    native_fields=_native_fields,
    shares=_shares,
    unroll=_unroll,
    refusal=_refusal,
)
