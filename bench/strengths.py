"""The standard strength at which `bench/toolbox.py` applies each approximation: one entry for each name.

A quarter to a half of what an approximation can take, the least significant of it: enough to show in every
column, little enough to be recovered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from models.spec import Calibration, Quantize, Recipe, Step
from models.spec.ranges import as_ranges
from worker.engine.anatomy import Anatomy
from worker.engine.anatomy.low_rank import noted_moments
from worker.engine.anatomy.vocabulary import note_counts
from worker.engine.origin import MOMENT_ROWS, Origin
from worker.engine.run import Run
from worker.engine.significance.elements import (
    Element,
    block_elements,
    group_elements,
    head_elements,
    layer_elements,
)
from worker.engine.significance.fisher import Fisher, FisherInformation
from worker.engine.significance.quantization import matrices, quantization_losses
from worker.engine.stages.problem import material, sample
from worker.engine.stages.vocabulary import smaller_vocabularies
from worker.engine.tasks import Split, evaluate

JUDGED_ROWS = 256
CALIBRATION_ROWS = 64
HARD_TOP_K = 8  # the data's texts have some fifteen tokens, of which the published 30 would keep all


@dataclass(frozen=True)
class Applied:
    """Steps from the dense model on; `origin` where they need another tokenizer than the dense model's.

    `trained`: whether recovery usually follows.
    """

    steps: tuple[Step, ...]
    trained: bool = True
    origin: Origin | None = None


class Bench:
    """The dense model of a run and what is known of its elements, worked out when first asked for."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @cached_property
    def anatomy(self) -> Anatomy:
        """The dense model's, which knows its inputs for forms of low rank."""
        run, anatomy = self.run, self.run.dense.anatomy
        rows = anatomy.model.get_input_embeddings().num_embeddings
        note_counts(anatomy.model, torch.from_numpy(np.bincount(run.dense.train.ids, minlength=rows)))
        with noted_moments(anatomy):
            seen = sample(run.dense.train, MOMENT_ROWS, run.spec.seed)
            evaluate(anatomy.model, seen, run.task, device=run.device)
        return anatomy

    @cached_property
    def fisher(self) -> FisherInformation:
        return Fisher().weigh(material(self.run, self.anatomy, self.anatomy.full_shape()))

    @cached_property
    def judged(self) -> Split:
        return sample(self.run.dense.selection, JUDGED_ROWS, self.run.spec.seed)

    def loss(self, element: Element | None = None) -> float:
        """Of the model without an element."""
        shape = self.anatomy.full_shape()
        with self.anatomy.masked(shape if element is None else element.removed_from(shape)):
            return evaluate(self.anatomy.model, self.judged, self.run.task, device=self.run.device).loss

    def least(self, elements: Sequence[Element], count: int) -> list[Element]:
        """Those whose removal raises the loss least, each by itself."""
        return sorted(elements, key=self.loss)[:count]


Variants = Mapping[str, Applied]


def _layers(bench: Bench) -> Variants:
    gone = bench.least(layer_elements(bench.anatomy.full_shape()), bench.anatomy.layers // 3)
    return {"a third of the layers": Applied(tuple(each.step() for each in gone))}


def _blocks(bench: Bench) -> Variants:
    blocks = block_elements(bench.anatomy.full_shape())
    gone = bench.least(blocks, len(blocks) // 4)
    return {"a quarter of the blocks": Applied(tuple(each.step() for each in gone))}


def _heads(bench: Bench) -> Variants:
    shape = bench.anatomy.full_shape()
    heads = [head for layer in range(bench.anatomy.layers) for head in head_elements(shape, layer)]
    gone = sorted(heads, key=bench.fisher.of)[: len(heads) // 4]
    return {"a quarter of the heads": Applied(tuple(each.step() for each in gone))}


def _channels(bench: Bench) -> Variants:
    shape, half = bench.anatomy.full_shape(), bench.anatomy.channels // 2
    gone = [
        group_elements(shape, layer, half, bench.fisher.channel_scores(layer))[0]
        for layer in range(bench.anatomy.layers)
    ]
    return {"half of the channels of every layer": Applied(tuple(each.step() for each in gone))}


def _hidden(bench: Bench) -> Variants:
    """By the size of what the word embedding says in a dimension."""
    table = bench.anatomy.model.get_input_embeddings().weight.detach()
    gone = table.var(dim=0).argsort()[: table.shape[1] // 4].tolist()
    step = {"approximation": "prune_hidden", "dimensions": as_ranges(sorted(gone))}
    return {"a quarter of the dimensions": Applied(_parsed(step))}


def _vocabulary(bench: Bench) -> Variants:
    return {
        name: Applied(table.recipe.steps, trained=False, origin=table.origin)
        for name, table in smaller_vocabularies(bench.run).items()
    }


def _embedding_rank(bench: Bench) -> Variants:
    step = {"approximation": "low_rank_embeddings", "rank": bench.anatomy.embedding_width // 2}
    return {"half of the width": Applied(_parsed(step))}


def _ffn_rank(bench: Bench) -> Variants:
    rank = bench.anatomy.hidden_size // 2
    steps = [
        {"approximation": "low_rank_ffn", "layer": layer, "rank": rank}
        for layer in range(bench.anatomy.layers)
    ]
    return {"half of the width, every layer": Applied(_parsed(*steps))}


def _every_layer(name: str, *forms: Mapping[str, Any]) -> Callable[[Bench], Variants]:
    def variants(bench: Bench) -> Variants:
        found = {}
        for fields in forms:
            layers = range(bench.anatomy.layers)
            steps = [{"approximation": name, "layer": layer, **fields} for layer in layers]
            said = ", ".join(f"{field} {value}" for field, value in fields.items())
            found[f"{said}, every layer"] = Applied(_parsed(*steps))
        return found

    return variants


def _quantized(bench: Bench) -> Variants:
    """What ONNX Runtime's quantizers give, and a mixture by significance."""
    run = bench.run

    def loss() -> float:
        return evaluate(bench.anatomy.model, bench.judged, run.task, device=run.device).loss

    by_loss = quantization_losses(bench.anatomy, ("int4",), loss)["int4"]
    least = sorted(by_loss, key=lambda name: by_loss[name])[: len(by_loss) // 2]
    calibration = Calibration(rows=CALIBRATION_ROWS, seed=run.spec.seed)
    assert set(by_loss) == set(matrices(bench.anatomy))
    forms = {
        "int8, dynamic": Quantize(),
        "int8, one scale a matrix": Quantize(per_channel=False),
        "int8, static": Quantize(calibration=calibration),
        "fp16 weights": Quantize(weights="fp16", embeddings="fp16"),
        "int8, word embeddings int4": Quantize(embeddings="int4"),
        "int8 stored in 4 bits, word embeddings int4": Quantize(weights="w4a8", embeddings="int4"),
        "int4 weights and word embeddings": Quantize(weights="int4", embeddings="int4"),
        "the less significant half int4, the rest int8": Quantize(
            matrices=dict.fromkeys(sorted(least), "int4"), embeddings="int4"
        ),
    }
    return {name: Applied((step,), trained=False) for name, step in forms.items()}


def _parsed(*steps: Mapping[str, Any]) -> tuple[Step, ...]:
    return Recipe.model_validate({"steps": steps}).steps


STRENGTHS: dict[str, Callable[[Bench], Variants]] = {
    "prune_layers": _layers,
    "prune_blocks": _blocks,
    "prune_heads": _heads,
    "prune_weight_groups": _channels,
    "prune_hidden": _hidden,
    "prune_vocabulary": _vocabulary,
    "low_rank_embeddings": _embedding_rank,
    "low_rank_ffn": _ffn_rank,
    "hard_attention": _every_layer("hard_attention", {"top_k": HARD_TOP_K}),
    "sign_matching_attention": _every_layer(
        "sign_matching_attention",
        {"variant": "softmax", "top_k": HARD_TOP_K},
        {"variant": "average", "top_k": HARD_TOP_K},
    ),
    "quantize": _quantized,
}
