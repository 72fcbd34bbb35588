"""The torch.export program: the model as one file that torch runs without any modelling code.

A program is the graph of the forward pass with its weights. It is exported from the engine's own form of
the model, the same for every architecture, so that whatever can be sliced can be exported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from worker.engine.anatomy.slicing import as_axforge
from worker.engine.export.graph_heads import head_kind
from worker.engine.export.modeling_axforge import AxforgeConfig, AxforgeEncoder
from worker.engine.export.onnx import input_names, save_tokenizer_and_labels

PROGRAM_FILE = "model.pt2"
# Sizes that the graph is traced with; 0 and 1 would be taken for constants.
BATCH, CHOICES, LENGTH = 2, 3, 5


def save_program_folder(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, max_length: int
) -> Path:
    """Write the program, and what else is needed to ask it, as in an ONNX folder; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / PROGRAM_FILE
    torch.export.save(exported_program(model, input_names(model, tokenizer)), target)
    save_tokenizer_and_labels(model, tokenizer, folder, max_length)
    return target


def exported_program(model: PreTrainedModel, inputs: Sequence[str]) -> torch.export.ExportedProgram:
    """The program of a dense or sliced model, in evaluation mode, on the CPU.

    It takes `inputs` by name, int64 (batch, length) or (batch, choices, length), each size from 1 on and
    the length up to the model's positions. It answers float32 logits, of a span those of the first and
    those of the last token.
    """
    own = _twin(model) if isinstance(model, AxforgeEncoder) else cast(AxforgeEncoder, as_axforge(model))
    uniform = own.cpu().eval().requires_grad_(False)
    sizes = _sizes(uniform)
    example = torch.ones(tuple(size for size, _ in sizes), dtype=torch.long)
    dimensions = {axis: dimension for axis, (_, dimension) in enumerate(sizes)}
    with torch.no_grad():
        return torch.export.export(
            _Answers(uniform),
            (),
            {name: example.clone() for name in inputs},
            dynamic_shapes=dict.fromkeys(inputs, dimensions),
        )


def _twin(model: AxforgeEncoder) -> AxforgeEncoder:
    """The same model with the same memory, whose modules may be changed."""
    shared = {id(weight): nn.Parameter(weight.detach()) for weight in model.parameters()}
    return deepcopy(model, cast(dict[int, Any], shared))


class _Answers(nn.Module):
    """The model's answers alone, which are tensors, of inputs by name."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        output: Any = self.model(input_ids, attention_mask, token_type_ids)
        if "start_logits" in output:
            return output.start_logits, output.end_logits
        logits: Tensor = output.logits
        return logits


def _sizes(model: AxforgeEncoder) -> Sequence[tuple[int, Any]]:
    """Of every dimension of an input: the size to trace with, and what it may be."""
    batch = (BATCH, Dim("batch", min=1))
    choices = [(CHOICES, Dim("choices", min=1))] if head_kind(model) == "choice" else []
    return [batch, *choices, (LENGTH, Dim("length", min=1, **_longest(model.config)))]


def _longest(config: AxforgeConfig) -> Mapping[str, int]:
    """The most tokens that the model has positions for, as an option of `Dim`."""
    if config.positions == "none":
        return {}
    skipped = config.pad_token_id + 1 if config.positions == "after_padding" else 0
    return {"max": config.max_position_embeddings - skipped}
