"""What an architecture family tells about itself; everything else is the same for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from worker.engine.anatomy.heads import Head, HeadKind


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
    """A post-norm encoder architecture, and the heads that its models may have.

    `embeddings`, `head_dense` and `head_out` are module paths: the embedding module, and the two
    linear modules of the sequence classifier. `layers` is the path of the list of layers.
    `other_heads` are those besides sequence classification.
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
    other_heads: Mapping[HeadKind, Head] = field(default_factory=dict)

    @property
    def heads(self) -> Mapping[HeadKind, Head]:
        """All heads by their kind."""
        return {"sequence": Head(self.model_class, self.head_out, self.head_dense), **self.other_heads}

    def kind_of(self, model: PreTrainedModel) -> HeadKind | None:
        """The kind of head that a model of this family has, or None where it is of no known class."""
        known = (kind for kind, head in self.heads.items() if isinstance(model, head.model_class))
        return next(known, None)

    def outside(self, kind: HeadKind) -> tuple[str, ...]:
        """Module paths of what is not in a layer, in a model with a head of that kind."""
        return (self.embeddings, *self.heads[kind].modules)


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
    ffn_up: nn.Linear | None
    ffn_down: nn.Linear | None
    ffn_norm: nn.LayerNorm
