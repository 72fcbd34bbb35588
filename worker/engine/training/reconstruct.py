"""Reconstruction: the output projections that are left are solved anew, to compute what the dense model does.

Retraining-free, by linear least squares (K-prune, Park et al. 2024; where layers share weights ZipLM's
update, Kurtic et al. 2023). From the first layer upwards, attention before FFN: with x what comes into a
projection of the pruned model, and z what its block adds up to with the residual path, weights and bias
change by the D that makes |D x - (z_dense - z)|^2 + damping |D|^2 least over all tokens. So a block makes up
for what it has lost itself, and for what was lost before it, as far as that is linear in what is left to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from worker.engine.anatomy import Anatomy, anatomy_of
from worker.engine.anatomy.families import LayerParts
from worker.engine.anatomy.resuming import beginning_at, layer_modules
from worker.engine.device import Device
from worker.engine.reporting import Reporter, SilentReporter
from worker.engine.significance.base import Material
from worker.engine.significance.obs import removal_update
from worker.engine.significance.projections import BlockKind, output_projections, projection_modules
from worker.engine.tasks import Batch, Split, Task

BATCH = 64
KINDS: tuple[BlockKind, ...] = ("attention", "ffn")


@torch.no_grad()
def reconstruct(
    student: PreTrainedModel,
    dense: PreTrainedModel,
    rows: Split,
    task: Task,
    device: Device,
    *,
    damping: float,
    reporter: Reporter | None = None,
) -> None:
    """Change the output projections of `student`, sliced from `dense`, in place; all in fp32, solved in fp64.

    The same models, rows and damping give the same weights on the same machine. Projections of low rank
    stay as they are. Raises Stopped.
    """
    whole, small = anatomy_of(dense), anatomy_of(student)
    for model in (dense, student):
        model.to(device.torch_device).eval()
    if whole.shares:
        _surgery(small, whole, rows, task, device)
        return
    batches = list(rows.batches(BATCH))
    teacher, learner = _Walk(whole, batches, device), _Walk(small, batches, device)
    dimensions = _dimensions(whole, small)
    for part in whole.parts:
        (reporter or SilentReporter()).check()
        left = learner.part if learner.part is not None and learner.part.index == part.index else None
        wanted = teacher.go_on(dimensions)
        if left is None:
            continue
        for kind in KINDS:
            projection = left.attention_output if kind == "attention" else left.ffn_down
            if isinstance(projection, nn.Linear):
                _solve(projection, kind, learner, wanted, damping)
        learner.go_on()


class _Walk:
    """A model that goes through its layers one by one, all batches together."""

    def __init__(self, anatomy: Anatomy, batches: Sequence[Batch], device: Device) -> None:
        self.anatomy = anatomy
        self.batches = batches
        self.masks = [batch.mask.to(device.torch_device) for batch in batches]
        self._device = device
        self._position = 0
        self._answers: list[Any] = [None] * len(batches)

    @property
    def part(self) -> LayerParts | None:
        """The layer that is next."""
        parts = self.anatomy.parts
        return parts[self._position] if self._position < len(parts) else None

    def go_on(self, dimensions: Tensor | None = None) -> list[dict[BlockKind, Tensor]]:
        """Run the next layer for good. By batch, what its blocks add up to: (tokens, width).

        Of some `dimensions` of the width only, where these are given.
        """
        told, answers = [], []
        for number, mask in enumerate(self.masks):
            sums, answer = self.layer(number)
            real = {kind: values[mask] for kind, values in sums.items()}
            some = None if dimensions is None else dimensions.to(mask.device)
            told.append(real if some is None else {kind: values[:, some] for kind, values in real.items()})
            answers.append(answer)
        self._answers, self._position = answers, self._position + 1
        return told

    def layer(self, number: int) -> tuple[dict[BlockKind, Tensor], Any]:
        """Run the next layer on a batch: its blocks' sums, and its answer."""
        layer, kept = layer_modules(self.anatomy)[self._position], []
        hook = layer.register_forward_hook(lambda module, given, output: kept.append(output))
        position = self._position
        try:
            with (
                _sums_of(self.anatomy, position) as sums,
                beginning_at(self.anatomy, position, self._answers[number], end=position + 1),
            ):
                self.anatomy.model(**self._device.put(self.batches[number].inputs))
        finally:
            hook.remove()
        return sums, kept[-1]


def _dimensions(whole: Anatomy, small: Anatomy) -> Tensor | None:
    """Which of the dense model's hidden dimensions the pruned one has, by their places; None for all."""
    gone, held = (set(each.full_shape().hidden_gone) for each in (small, whole))
    if gone == held:
        return None
    places = [index for index in range(whole.hidden_size) if index not in held]
    return torch.tensor([at for at, index in enumerate(places) if index not in gone], dtype=torch.long)


def _solve(
    projection: nn.Linear,
    kind: BlockKind,
    learner: _Walk,
    wanted: Sequence[dict[BlockKind, Tensor]],
    damping: float,
) -> None:
    """One block's least squares over all batches; a bias counts as the weight of an input of 1."""
    columns = projection.in_features + (projection.bias is not None)
    moments = projection.weight.new_zeros((columns, columns), dtype=torch.float64)
    missing = projection.weight.new_zeros((projection.out_features, columns), dtype=torch.float64)
    inputs: list[Tensor] = []
    hook = projection.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    try:
        for number, (mask, target) in enumerate(zip(learner.masks, wanted, strict=True)):
            sums, _ = learner.layer(number)
            given = inputs.pop()[mask]
            if projection.bias is not None:
                given = torch.cat((given, given.new_ones((len(given), 1))), dim=1)
            error = target[kind] - sums[kind][mask]
            moments += (given.T @ given).double()
            missing += (error.T @ given).double()
    finally:
        hook.remove()
    size = moments.diagonal()[: projection.in_features].mean()
    if not size > 0:
        return
    ridge = damping * size * torch.eye(columns, dtype=torch.float64, device=moments.device)
    change = torch.linalg.solve(moments + ridge, missing.T).T.to(projection.weight.dtype)
    projection.weight.add_(change[:, : projection.in_features])
    if projection.bias is not None:
        projection.bias.add_(change[:, -1])


@contextmanager
def _sums_of(anatomy: Anatomy, position: int) -> Iterator[dict[BlockKind, Tensor]]:
    """Inside, every forward pass leaves here what the blocks of a layer add up to with the residual path.

    Where norms come after the residual path these are what goes into them. Where norms come before it, the
    attention's is what goes into the FFN's norm, and the FFN's what the layer answers; without FFN both are.
    """
    part, sums = anatomy.parts[position], dict[BlockKind, Tensor]()
    pre_norm = anatomy.form.get("norm_placement") == "pre"

    def into(kind: BlockKind, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        sums[kind] = args[0]

    def out(module: nn.Module, args: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        sums["ffn"] = hidden
        sums.setdefault("attention", hidden)

    with ExitStack() as undo:
        if pre_norm:
            before: dict[BlockKind, nn.Module | None] = {"attention": part.ffn_norm}
            undo.callback(part.module.register_forward_hook(out).remove)
        else:
            before = {"attention": part.attention_norm, "ffn": part.ffn_norm}
        for kind, norm in before.items():
            if norm is not None:
                undo.callback(norm.register_forward_pre_hook(partial(into, kind)).remove)
        yield sums


def _surgery(small: Anatomy, whole: Anatomy, rows: Split, task: Task, device: Device) -> None:
    """ZipLM's update for weights that several layers share: one solution for the inputs of all of them."""
    full, kept = whole.full_shape(), small.full_shape()
    given = Material(whole, full, rows, task, device, batch_size=BATCH, precision="fp32")
    projections = output_projections(given)
    for (layer, kind), module in projection_modules(small, kept).items():
        if not kept.leads(layer) or not isinstance(module, nn.Linear):
            continue
        projection, left = projections[layer, kind], kept.layers[layer]
        units = left.heads if kind == "attention" else left.channels
        gone = tuple(unit for unit in projection.units if unit not in set(units))
        if gone:
            weight = removal_update(projection, gone)[:, projection.columns(units)]
            dimensions = _dimensions(whole, small)
            weight = weight if dimensions is None else weight[dimensions]
            module.weight.copy_(weight.to(module.weight))
