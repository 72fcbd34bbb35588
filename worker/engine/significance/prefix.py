"""Losses of shapes that leave the first layers alone, from the hidden states that those layers gave."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from worker.engine.anatomy import Anatomy, Shape
from worker.engine.anatomy.heads import logits_of
from worker.engine.device import Device, Precision
from worker.engine.tasks import Split, Task

CACHE_BYTES = 512 << 20  # of hidden states; a larger split is computed from the first layer every time


class PrefixReplay:
    """Per-sample losses on one split of whatever differs from the unmasked model in its later layers only.

    The unmasked model runs once; what each layer hands to the next is kept. A shape whose first difference
    is in layer n then costs the layers from n on. What is computed is the same to the last bit.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        split: Split,
        task: Task,
        device: Device,
        *,
        precision: Precision,
        batch_size: int = 128,
    ) -> None:
        self._anatomy = anatomy
        self._split = split
        self._task = task
        self._device = device
        self._precision: Precision = precision
        self._full = anatomy.full_shape().normalised()
        self._batches = list(split.batches(batch_size))
        self._outputs: list[list[Any]] = []
        path, _, self._name = anatomy.family.layers.rpartition(".")
        self._parent = anatomy.model.get_submodule(path)
        self._layers: nn.ModuleList = getattr(self._parent, self._name)
        anatomy.model.to(device.torch_device).eval()
        tokens = int(sum(batch.inputs["input_ids"].numel() for batch in self._batches))
        if tokens * anatomy.hidden_size * 4 * len(self._layers) <= CACHE_BYTES:
            self._outputs = [self._kept_outputs(number) for number in range(len(self._batches))]

    @torch.no_grad()
    def losses(self, shape: Shape) -> np.ndarray:
        """Of every row, in split order, for the model masked to `shape`."""
        losses = np.empty(len(self._split), dtype=np.float32)
        first = self._first_difference(shape.normalised())
        with self._anatomy.masked(shape):
            for number, batch in enumerate(self._batches):
                with self._from_layer(first, number):
                    logits = self._logits(number)
                losses[batch.index] = self._task.losses(logits.float().cpu(), batch).numpy()
        return losses

    def _first_difference(self, shape: Shape) -> int:
        """The position, among the layers that the model has, of the first that `shape` changes."""
        if (shape.rows, shape.embedding_rank) != (self._full.rows, self._full.embedding_rank):
            return 0
        present = [index for index, layer in enumerate(self._full.layers) if layer.present]
        changed = (n for n, i in enumerate(present) if shape.layers[i] != self._full.layers[i])
        return next(changed, len(present))

    def _logits(self, number: int) -> torch.Tensor:
        with self._device.autocast(self._precision):
            return logits_of(self._anatomy.model(**self._device.put(self._batches[number].inputs)))

    @torch.no_grad()
    def _kept_outputs(self, number: int) -> list[Any]:
        """What every layer of the unmasked model answers on a batch."""
        outputs: list[Any] = []
        hooks = [
            layer.register_forward_hook(lambda module, given, output: outputs.append(output))
            for layer in self._layers
        ]
        try:
            self._logits(number)
        finally:
            for hook in hooks:
                hook.remove()
        return outputs

    @contextmanager
    def _from_layer(self, first: int, number: int) -> Iterator[None]:
        """Inside, the model begins at its layer `first`, with what the one before it gave."""
        if first == 0 or not self._outputs:
            yield
            return
        replayed = nn.ModuleList(
            [_Answer(self._outputs[number][first - 1], self._layers[first - 1]), *self._layers[first:]]
        )
        setattr(self._parent, self._name, replayed)
        try:
            yield
        finally:
            setattr(self._parent, self._name, self._layers)


class _Answer(nn.Module):
    """A layer that knows its answer. What else the model asks of it, it has from the layer it stands for."""

    def __init__(self, answer: Any, layer: nn.Module) -> None:
        super().__init__()
        self._answer = answer
        self.__dict__ |= {name: value for name, value in vars(layer).items() if not name.startswith("_")}

    def forward(self, *given: Any, **named: Any) -> Any:
        """What was kept, whatever is given."""
        return self._answer
