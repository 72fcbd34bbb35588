"""Running a model with masks that are being trained, by forward hooks only.

The places are those of hard masks (`anatomy.masking`, `anatomy.hidden`), so that a mask of zeros and ones
computes what slicing does: heads and channels are weighted where their output projection reads them, blocks
where they are added, hidden dimensions in every norm, whose statistics are taken over what is to stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from worker.engine.anatomy import Anatomy
from worker.engine.anatomy.families import LayerParts
from worker.engine.anatomy.hidden import Point, points, weighted_norm
from worker.engine.learned.vib import Kind, Masks, VibMask, soft_keep

Sampled = Callable[[Tensor], Tensor]
"""From the values that are weighted, (..., width), to their factors, which have that shape."""


@contextmanager
def learning(anatomy: Anatomy, masks: Masks, sharpness: float) -> Iterator[None]:
    """While it lasts, the model's units are multiplied by samples of their masks, one for each token.

    A layer has nothing that its mask's mean could be folded into where norms follow the blocks. So its factor
    is m (1 + eps sigma / |mu|), with m the part of it that is expected to stay, between the layer
    and the path around it: 1 where it stays and 0 where it goes. Raises nothing; hooks go at the end.
    """
    with ExitStack() as undo:
        hidden = masks.of("hidden")
        if hidden is not None:
            kept = soft_keep(hidden.log_alpha, sharpness)
            for point in points(anatomy):
                undo.callback(_of_stream(point, hidden, kept, sharpness).remove)
        for part in anatomy.parts:
            for handle in _of_layer(anatomy, masks, part, sharpness):
                undo.callback(handle.remove)
        yield


@contextmanager
def noted_states(anatomy: Anatomy) -> Iterator[dict[int, Tensor]]:
    """The hidden states after each layer that is present, by dense index, with its mask applied.

    After the last one, of models with a norm behind the layers, what that norm makes of them; these are
    the states that transformers calls `hidden_states`. Filled by a forward pass.
    """
    states: dict[int, Tensor] = {}
    final = anatomy.outside.get("final_norm")
    last = anatomy.parts[-1].index if anatomy.parts else -1

    def noting(index: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            states[index] = output[0] if isinstance(output, tuple) else output

        return hook

    with ExitStack() as undo:
        for part in anatomy.parts:
            module = final if final is not None and part.index == last else part.module
            undo.callback(module.register_forward_hook(noting(part.index)).remove)
        yield states


def _of_layer(
    anatomy: Anatomy, masks: Masks, part: LayerParts, sharpness: float
) -> Iterator[RemovableHandle]:
    leader = anatomy.full_shape().sharing(part.index)[0]

    def mask(kind: Kind) -> VibMask | None:
        return masks.of(kind, leader)

    if part.attention_output is not None:
        heads = mask("heads")
        if heads is not None:
            yield _scaled_input(part.attention_output, _by_head(heads, anatomy.head_size, sharpness))
        yield from _scaled_block(part.attention_output, mask("attention"), sharpness)
    if part.ffn_down is not None:
        channels = mask("channels")
        if channels is not None:
            yield _scaled_input(part.ffn_down, _by_unit(channels, sharpness))
        yield from _scaled_block(part.ffn_down, mask("ffn"), sharpness)
    layer = masks.of("layers", part.index)
    if layer is not None:
        yield _skipped_in_part(part.module, layer, sharpness)


def _by_unit(mask: VibMask, sharpness: float) -> Sampled:
    return lambda values: mask.sampled(values.shape[:-1], sharpness)


def _by_head(mask: VibMask, head_size: int, sharpness: float) -> Sampled:
    return lambda values: mask.sampled(values.shape[:-1], sharpness).repeat_interleave(head_size, -1)


def _scaled_input(projection: nn.Module, factors: Sampled) -> RemovableHandle:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0] * factors(args[0]).to(args[0].dtype), *args[1:])

    return projection.register_forward_pre_hook(hook)


def _scaled_block(projection: nn.Module, mask: VibMask | None, sharpness: float) -> Iterator[RemovableHandle]:
    if mask is None:
        return

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output * mask.sampled(output.shape[:-1], sharpness).to(output.dtype)

    yield projection.register_forward_hook(hook)


def _skipped_in_part(layer: nn.Module, mask: VibMask, sharpness: float) -> RemovableHandle:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        answer = output[0] if isinstance(output, tuple) else output
        noise = torch.randn((*answer.shape[:-1], 1), device=answer.device)
        alpha = torch.exp(0.5 * mask.log_alpha.clamp_max(0.0))
        factor = (soft_keep(mask.log_alpha, sharpness) * (1.0 + noise * alpha)).to(answer.dtype)
        mixed = given + factor * (answer - given)
        return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

    return layer.register_forward_hook(hook, with_kwargs=True)


def _of_stream(point: Point, mask: VibMask, kept: Tensor, sharpness: float) -> RemovableHandle:
    """Means are folded into norms. Elsewhere the stream is only weighted by what stays."""

    def normed(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        scale = mask.sampled(args[0].shape[:-1], sharpness)
        return weighted_norm(module, args[0], kept, scale).to(output.dtype)

    def scaled_input(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0] * kept.to(args[0].dtype), *args[1:])

    def scaled_output(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output * kept.to(output.dtype)

    if point.place == "input":
        return point.module.register_forward_pre_hook(scaled_input)
    return point.module.register_forward_hook(normed if point.place == "norm" else scaled_output)
