"""A stack of a model's layers at chosen widths, with random weights: what latency tables are timed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers.initialization import no_init_weights

from worker.engine.export.axforge_attention import position_module
from worker.engine.export.axforge_decoder import AxforgeDecoderLayer
from worker.engine.export.modeling_axforge import AxforgeConfig, AxforgeLayer, layer_class


def layer_stack(
    hidden_size: int,
    head_size: int,
    layers: Sequence[tuple[int, int]],
    form: Mapping[str, Any],
    layer_variants: Sequence[Mapping[str, Any]],
) -> tuple[list[AxforgeLayer], nn.Module | None, AxforgeConfig]:
    """Layers of (heads, channels), their common position module if they have one, and their config.

    `form` is as `AxforgeConfig` has it; of the dense model's `layer_variants` the layers get the first
    ones, and these again where there are more layers than variants.
    """
    config = AxforgeConfig(**{**form, "hidden_size": hidden_size, "head_size": head_size})
    kind = layer_class(config) if config.causal is None else AxforgeDecoderLayer
    with no_init_weights():
        modules = [
            kind(config, heads, channels, _variant(layer_variants, number, heads))
            for number, (heads, channels) in enumerate(layers)
        ]
        relative = position_module(config)
    generator = torch.Generator().manual_seed(0)
    for module in (*modules, *([] if relative is None else [relative])):
        for name, parameter in module.named_parameters():
            is_gain = name.endswith("norm.weight")
            values = torch.randn(parameter.shape, generator=generator) * config.initializer_range
            parameter.data = values + 1.0 if is_gain else values
    return modules, relative, config


def _variant(variants: Sequence[Mapping[str, Any]], number: int, heads: int) -> dict[str, Any]:
    return {**variants[number % len(variants)], "heads": list(range(heads))}
