"""What an architecture family tells about itself; everything else is the same for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from worker.engine.export.modeling_axforge import LowRankLinear


@dataclass(frozen=True)
class LayerNames:
    """Where the parts of a layer are, as module paths below the layer.

    `attention` is the module that calls transformers' attention function.
    """

    attention: str
    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    ffn_up: str
    ffn_down: str
    ffn_norm: str


@dataclass(frozen=True)
class Family:
    """A post-norm encoder architecture with a sequence-classification head.

    `embeddings`, `head_dense` and `head_out` are module paths: the embedding module, and the two
    linear modules of the classifier. `layers` is the path of the list of layers.
    `variant` gives the fields of `AxforgeConfig` that tell this family's forward pass from others.
    `channels_field` is the config's name for the FFN width.
    """

    model_types: tuple[str, ...]
    model_class: type[PreTrainedModel]
    layers: str
    names: LayerNames
    embeddings: str
    head_dense: str
    head_out: str
    variant: Callable[[PreTrainedConfig], Mapping[str, Any]]
    channels_field: str = "intermediate_size"

    @property
    def outside(self) -> tuple[str, str, str]:
        """Module paths of what is not in a layer."""
        return (self.embeddings, self.head_dense, self.head_out)


@dataclass(frozen=True)
class LayerParts:
    """The modules of one layer that is present, and its index in the dense model.

    The modules of a block that was really removed are None.
    """

    index: int
    module: nn.Module
    attention: nn.Module | None
    query: nn.Linear | None
    key: nn.Linear | None
    value: nn.Linear | None
    attention_output: nn.Linear | None
    attention_norm: nn.LayerNorm
    ffn_up: nn.Linear | LowRankLinear | None
    ffn_down: nn.Linear | LowRankLinear | None
    ffn_norm: nn.LayerNorm
