"""Losses of shapes that leave the first layers alone, from the hidden states that those layers gave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from worker.engine.anatomy import Anatomy, Shape
from worker.engine.anatomy.heads import logits_of
from worker.engine.anatomy.resuming import beginning_at, layer_modules
from worker.engine.device import Device, Precision
from worker.engine.significance.base import Tally
from worker.engine.significance.elements import Element, Weighed
from worker.engine.significance.projections import Key
from worker.engine.significance.siblings import TOKENS_TOGETHER, block_of, computed_together, forked
from worker.engine.tasks import Split, Task
from worker.engine.tasks.evaluate import together, unpadded

CACHE_BYTES = 512 << 20  # of hidden states; a larger split is computed from the first layer every time


class PrefixReplay:
    """Per-sample losses on one split of whatever differs from a base in its later layers only.

    The model masked to `base` (None: unmasked) runs once; what each layer hands to the next is kept, as
    long as it has room in `room` bytes. A shape whose first difference is in layer n then costs the
    layers from n on, and where it lacks layer n those after it. What is computed is the same to the last
    bit. `tally` hears how much it was. Losses are those of logits divided by `temperature`.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        split: Split,
        task: Task,
        device: Device,
        *,
        precision: Precision,
        temperature: float = 1.0,
        batch_size: int | None = None,
        base: Shape | None = None,
        tally: Tally | None = None,
        room: int | None = None,
    ) -> None:
        self._anatomy = anatomy
        self._split = split
        self._task = task
        self._device = device
        self._precision: Precision = precision
        self._temperature = temperature
        self._base = (base or anatomy.full_shape()).normalised()
        self._tally = tally or Tally()
        self._present = [part.index for part in anatomy.parts]
        self._batches = list(split.batches(together(split, device, batch_size)))
        self._tokens = [int(batch.mask.sum()) for batch in self._batches]
        self._outputs: list[list[Any]] = []
        self._rebasing: tuple[Shape, list[list[Any]]] | None = None
        anatomy.model.to(device.torch_device).eval()
        if self.bytes <= (CACHE_BYTES if room is None else room):
            self._outputs = [self._kept_outputs(number, 0) for number in range(len(self._batches))]

    @property
    def bytes(self) -> int:
        """Of the hidden states that are to be kept."""
        tokens = sum(batch.inputs["input_ids"].numel() for batch in self._batches)
        return int(tokens) * self._anatomy.hidden_size * 4 * len(self._present)

    def losses(self, shape: Shape) -> NDArray[np.float32]:
        """Of every row, in split order, for the model masked to `shape`."""
        return self.answers(shape)[0]

    @torch.no_grad()
    def answers(
        self, shape: Shape, *, may_rebase: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The same, and logits as `Evaluation` has them.

        If it `may_rebase`, what the layers give is kept until the next answers, so that to `rebase` on that
        shape costs nothing.
        """
        split = self._split
        losses = np.empty(len(split), dtype=np.float32)
        logits: NDArray[np.float32] | None = None
        first = self._first_difference(shape.normalised())
        begin = first + self._absent(shape, first) if first and self._outputs else first
        self._rebasing, outputs = None, list[list[Any]]()
        with self._anatomy.masked(shape):
            for number, batch in enumerate(self._batches):
                with self._outputs_from(begin) as computed:
                    answer = self._logits(number, begin, first).float().cpu()
                if may_rebase and self._outputs:
                    known = self._outputs[number][:first]
                    outputs.append([*known, *known[-1:] * (begin - first), *computed])
                losses[batch.index] = self._task.losses(answer / self._temperature, batch).numpy()
                part = unpadded(self._task.kept(answer, batch), batch).numpy()
                if logits is None:
                    rows = len(split.ids if split.by_token else split)
                    logits = np.empty((rows, part.shape[1]), dtype=np.float32)
                logits[split.flat_positions(batch.index) if split.by_token else batch.index] = part
        assert logits is not None
        if may_rebase and self._outputs:
            self._rebasing = shape.normalised(), outputs
        return losses, logits

    @torch.no_grad()
    def losses_without(self, siblings: Sequence[Weighed]) -> list[NDArray[np.float32]]:
        """Of every row, in split order, for the base without each of a set of `sibling_sets`."""
        if len(siblings) == 1:
            return [self.losses(siblings[0].removed_from(self._base))]
        elements = cast(Sequence[Element], siblings)  # of one block: all else is alone
        block, answer = block_of(elements[0]), np.empty((len(elements), len(self._split)), dtype=np.float32)
        for number, batch in enumerate(self._batches):
            together = max(1, TOKENS_TOGETHER // max(1, batch.inputs["input_ids"].numel()))
            for start in range(0, len(elements), together):
                some = elements[start : start + together]
                logits = self._forked_logits(number, block, some).float().cpu()
                for at, each in enumerate(logits.chunk(len(some)), start=start):
                    answer[at, batch.index] = self._task.losses(each / self._temperature, batch).numpy()
        return list(answer)

    def _forked_logits(self, number: int, block: Key, siblings: Sequence[Element]) -> torch.Tensor:
        """(siblings * sequences, ...) of a batch, one sibling after the other."""
        anatomy, batch = self._anatomy, self._batches[number]
        position = self._present.index(block[0])
        kept = self._outputs[number] if self._outputs else None
        begin = position if kept else 0
        inputs, tokens = self._device.put(batch.inputs), self._tokens[number]

        def run() -> None:
            with beginning_at(anatomy, begin, kept[begin - 1] if kept and begin else None):
                anatomy.model(**inputs)

        with anatomy.masked(self._base), self._device.autocast(self._precision):
            answer = forked(anatomy, self._base, block, siblings, run)
            copies = {
                name: value.repeat(len(siblings), *[1] * (value.dim() - 1)) for name, value in inputs.items()
            }
            with beginning_at(anatomy, position + 1, answer):
                logits = logits_of(anatomy.model(**copies))
        length = tokens / max(1, len(batch.mask))
        layers = position - begin + computed_together(anatomy, self._base, block, len(siblings), length)
        after = len(siblings) * (len(self._present) - position - 1)
        self._tally.add(round(tokens * (layers + after)), 1)
        return logits

    def rebase(self, base: Shape) -> None:
        """Compare with another shape from now on: what its first layers share with the last one's stays."""
        base = base.normalised()
        first = self._first_difference(base)
        self._base = base
        if self._rebasing is not None and self._rebasing[0] == base:
            self._outputs, self._rebasing = self._rebasing[1], None
            return
        self._rebasing = None
        for number in range(len(self._outputs)):
            self._outputs[number] = self._kept_outputs(number, first)

    def _first_difference(self, shape: Shape) -> int:
        """The position, among the layers that the model has, of the first that `shape` changes."""
        common = [(each.rows, each.embedding_rank, each.hidden_gone) for each in (shape, self._base)]
        if common[0] != common[1]:
            return 0
        changed = (n for n, i in enumerate(self._present) if shape.layers[i] != self._base.layers[i])
        return next(changed, len(self._present))

    def _absent(self, shape: Shape, first: int) -> int:
        """How many layers from that position on are gone: what comes in goes out."""
        present = (n for n, i in enumerate(self._present[first:]) if shape.layers[i].present)
        return next(present, len(self._present) - first)

    def _logits(self, number: int, begin: int, known: int) -> torch.Tensor:
        """Of a batch, by the layers from `begin` on, with what the first `known` ones gave."""
        batch, kept = self._batches[number], self._outputs[number] if self._outputs else None
        position = begin if kept else 0
        answer = kept[known - 1] if kept and known else None
        self._tally.add(self._tokens[number], len(self._present) - position)
        with beginning_at(self._anatomy, position, answer), self._device.autocast(self._precision):
            return logits_of(self._anatomy.model(**self._device.put(batch.inputs)))

    @torch.no_grad()
    def _kept_outputs(self, number: int, first: int) -> list[Any]:
        """What every layer of the base answers on a batch; those before `first` as they are known."""
        known = self._outputs[number][:first] if first else []
        with self._anatomy.masked(self._base), self._outputs_from(first) as outputs:
            if first < len(self._present):
                self._logits(number, first, first)
        return [*known, *outputs]

    @contextmanager
    def _outputs_from(self, position: int) -> Iterator[list[Any]]:
        """Inside, what the layers from that position on answer is put here."""
        outputs: list[Any] = []
        hooks = [
            layer.register_forward_hook(lambda module, given, output: outputs.append(output))
            for layer in layer_modules(self._anatomy)[position:]
        ]
        try:
            yield outputs
        finally:
            for hook in hooks:
                hook.remove()
