"""What the task loses when one matrix is quantized: the measured loss change, matrix by matrix.

The numbers are rounded as ONNX Runtime's quantizers round them, in a copy that is put back afterwards; so a
matrix costs one forward pass over the judged rows and no export.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from models.spec import Precision, Recipe
from worker.engine.anatomy import Anatomy
from worker.engine.anatomy.families import LayerParts, Rows
from worker.engine.approximations.quantize import INTEGER_PRODUCTS, MATRIX_BLOCK
from worker.engine.approximations.w4a8 import BLOCK, from_steps, in_steps
from worker.engine.export.modeling_axforge import LowRankLinear

WEIGHT_LEVELS = 64  # of int8 weights on either side of zero: 7 of the bits are used
INT4_LOWEST, INT4_HIGHEST = -8, 7
ACTIVATION_LEVELS = 255
BYTES: dict[Precision, float] = {
    "fp32": 4.0,
    "fp16": 2.0,
    "int8": 1.0,
    "int4": 0.5 + 4 / MATRIX_BLOCK,
    "w4a8": 0.5 + 0.5 / BLOCK,
}
"""Of a weight in each precision, with its share of the scales."""
ATTENTION_INPUT = ("query", "key", "value", "distance_key")


def matrices(anatomy: Anatomy) -> dict[str, list[nn.Linear | Conv1D]]:
    """The linear modules of each matrix of a recipe, by its name; of layers that share that of the first."""
    found: dict[str, list[nn.Linear | Conv1D]] = {}
    seen: set[int] = set()
    for part in anatomy.parts:
        for name, linears in _of_layer(part).items():
            new = [linear for linear in linears if id(linear.weight) not in seen]
            seen |= {id(linear.weight) for linear in linears}
            if new:
                found[f"layer.{part.index}.{name}"] = new
    return found


def bytes_per_parameter(anatomy: Anatomy, recipe: Recipe) -> float:
    """Of the weights in the layers, on average, in the precision that `recipe` gives them."""
    step = recipe.quantization()
    if step is None:
        return BYTES["fp32"]
    weights = {name: sum(one.weight.numel() for one in all_) for name, all_ in matrices(anatomy).items()}
    total = sum(count * BYTES[step.matrices.get(name, step.weights)] for name, count in weights.items())
    return total / max(1, sum(weights.values()))


def quantization_losses(
    anatomy: Anatomy, precisions: Sequence[Precision], loss_of: Callable[[], float]
) -> dict[Precision, dict[str, float]]:
    """The loss with one matrix in a precision, less that of the model as it is; by precision and name.

    `loss_of` evaluates the anatomy's model. Its weights are afterwards what they were before.
    """
    before = loss_of()
    changes: dict[Precision, dict[str, float]] = {precision: {} for precision in precisions}
    for name, linears in matrices(anatomy).items():
        for precision in precisions:
            with rounded(linears, precision):
                changes[precision][name] = loss_of() - before
    return changes


@contextmanager
def rounded(linears: Sequence[nn.Linear | Conv1D], precision: Precision) -> Iterator[None]:
    """Inside, the modules compute as if their weights were stored so; in int8 their inputs are, too."""
    before = [linear.weight.detach().clone() for linear in linears]
    with ExitStack() as undo:
        for linear, weight in zip(linears, before, strict=True):
            undo.callback(linear.weight.data.copy_, weight)
            turned = isinstance(linear, Conv1D)  # whose weight is (inputs, outputs)
            stored = rounded_weight(weight.T if turned else weight, precision)
            linear.weight.data.copy_(stored.T if turned else stored)
            if precision in INTEGER_PRODUCTS:
                undo.callback(linear.register_forward_pre_hook(_round_inputs).remove)
        yield


def rounded_weight(weight: Tensor, precision: Precision) -> Tensor:
    """(outputs, inputs) as it is read back from a file of that precision."""
    match precision:
        case "int8" | "w4a8":
            scale = weight.abs().amax(dim=1, keepdim=True) / WEIGHT_LEVELS
            whole = _steps(weight, scale).clamp(-WEIGHT_LEVELS, WEIGHT_LEVELS)
            return (_in_4_bits(whole) if precision == "w4a8" else whole) * scale
        case "int4":
            inputs = weight.shape[1]
            padded = functional.pad(weight, (0, -inputs % MATRIX_BLOCK))
            blocks = padded.unflatten(1, (-1, MATRIX_BLOCK))
            largest = blocks.gather(2, blocks.abs().argmax(dim=2, keepdim=True))
            scale = largest / INT4_LOWEST
            steps = _steps(blocks, scale).clamp(INT4_LOWEST, INT4_HIGHEST)
            read: Tensor = (steps * scale).flatten(1)[:, :inputs]
            return read
        case "fp16":
            return weight.half().to(weight.dtype)
        case _:
            return weight


def _in_4_bits(whole: Tensor) -> Tensor:
    """int8 weights (outputs, inputs) as whole numbers, as they come back from 4 bits."""
    stored = in_steps(whole.T.cpu().numpy().astype(np.int8))
    return torch.from_numpy(from_steps(*stored, whole.shape[1])).T.to(whole)


def _steps(values: Tensor, scale: Tensor) -> Tensor:
    """How many of `scale` the values are, to whole ones; none where there is no scale."""
    return torch.where(scale == 0, 0.0, torch.round(values / torch.where(scale == 0, 1.0, scale)))


def _round_inputs(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Activations as a dynamic product reads them: 8 bits from the smallest to the largest of the batch."""
    values = given[0]
    low, high = values.amin().clamp_max(0.0), values.amax().clamp_min(0.0)
    scale = (high - low).clamp_min(torch.finfo(values.dtype).tiny) / ACTIVATION_LEVELS
    zero = torch.round(-low / scale)
    return ((torch.round(values / scale) + zero).clamp(0, ACTIVATION_LEVELS) - zero) * scale, *given[1:]


def _of_layer(part: LayerParts) -> Mapping[str, list[nn.Linear | Conv1D]]:
    attention = [part.by_head[name] for name in ATTENTION_INPUT if name in part.by_head]
    output = [] if part.attention_output is None else [Rows(part.attention_output)]
    down = [] if part.ffn_down is None else [Rows(part.ffn_down)]
    named = {
        "attention.input": attention,
        "attention.output": output,
        "ffn.input": list(part.ffn_ups),
        "ffn.output": down,
    }
    return {name: _linears(rows) for name, rows in named.items() if rows}


def _linears(rows: Sequence[Rows]) -> list[nn.Linear | Conv1D]:
    """The modules with weights of their own, each once."""
    found: dict[int, nn.Linear | Conv1D] = {}
    for each in rows:
        linear = each.linear
        plain = [linear.inner, linear.outer] if isinstance(linear, LowRankLinear) else [linear]
        found |= {id(one): one for one in plain}
    return list(found.values())
