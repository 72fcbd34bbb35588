"""Plain contenders: heads, channels and dimensions removed at one ratio, in one shot, by one score.

A contender does a job as the engine does it, stage by stage, but for two things: in the place of the search
it keeps the same part of what every layer has, by magnitude or by Fisher information, and recovery trains
that structure once, for the seconds that it is given. Slicing, distillation, export and certificate are the
engine's, so that only the choice of units differs.

    outcome = contended(spec, workdir, "fisher", training_seconds=120.0)

What may go is what the spec's `approximations` name of `prune_heads`, `prune_weight_groups` and
`prune_hidden`; how much, its bounds on speed and size, as for a search: the largest part is kept whose
predicted costs hold them, and where speed is bounded, files are timed and the part corrected before any
training. The spec's `recovery` counts: `off` and `reconstruct` train nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from models.spec import JobSpec, Recipe, Recover
from worker.engine.anatomy import Anatomy, Shape
from worker.engine.anatomy.families import LayerParts, Rows
from worker.engine.anatomy.groups import heads_of
from worker.engine.anatomy.hidden import roles
from worker.engine.anatomy.slicing import sliced
from worker.engine.export.safetensors import save_folder
from worker.engine.pipeline import RUNNERS, Runner, do_stages
from worker.engine.reporting import Reporter, SilentReporter, Stage
from worker.engine.run import Run
from worker.engine.significance.base import Material
from worker.engine.significance.elements import ALIGNMENT, ALL_LAYERS, Element
from worker.engine.significance.fisher import Fisher
from worker.engine.stages.baseline import dense_files
from worker.engine.stages.fitting import learning_rate, recovered, recovery_options
from worker.engine.stages.measuring import measured_rung, report_rung
from worker.engine.stages.problem import cost_model, dense_reference, material
from worker.engine.stages.reconstruct import reconstructed
from worker.engine.stages.sizing import brought_to, corrected_ms, untrained_file
from worker.engine.stages.timing import timed
from worker.engine.stages.vocabulary import start_recipe, vocabulary_recipe
from worker.engine.strategies.goal import MARGIN, Goal
from worker.engine.workspace import read_json, write_json

Contender = Literal["magnitude", "fisher"]
CONTENDERS: tuple[Contender, ...] = get_args(Contender)
STEPS = 480  # of the part that is kept: finer than any width of the models measured
FINE = 4 * ALIGNMENT  # widths from here on are kept as multiples of ALIGNMENT, as the engine's groups are
TIMING_SHARE = 0.6  # of the time that a comparison usually takes, as the engine's sizing has it


@dataclass(frozen=True)
class Scores:
    """What units are kept by, more first: (layers, heads), (layers, channels) and (dimensions,), all by dense
    index. `hidden` is None where no dimension may go."""

    heads: NDArray[np.float64]
    channels: NDArray[np.float64]
    hidden: NDArray[np.float64] | None


def contended(
    spec: JobSpec,
    workdir: Path,
    contender: Contender,
    training_seconds: float,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Do the job with the contender's choice; a run that was killed in `workdir` goes on.

    Answers `certificate` (JSON), `minutes` of the whole job (with the engine's analysis, of which a contender
    uses the latency table only), `training_seconds` and `choosing_seconds` as they were, and the number of
    `candidates`, as `bench.main.optimized` names them.
    """
    run = Run(spec, workdir, reporter or SilentReporter())
    own: dict[Stage, Runner] = {
        "search": partial(_search, contender=contender),
        "recover": partial(_recover, seconds=training_seconds),
    }
    do_stages(run, runners=RUNNERS | own)
    searched, recovery = run.workspace.result("search"), run.workspace.result("recover")
    assert searched is not None
    assert recovery is not None
    return {
        "certificate": read_json(run.workspace.folder("certify") / "certificate.json"),
        "minutes": round(run.stopwatch.used / 60, 2),
        "training_seconds": round(recovery["training_seconds"], 1),
        "choosing_seconds": round(searched["seconds"], 1),
        "candidates": searched["candidates"] + 1,
    }


def magnitude(material: Material) -> Scores:
    """L2 norms of all weights that belong to a unit, biases and norms apart (Han et al. 2015, by structure).

    To a head its queries, keys, values and its part of the output projection; to a channel its inputs and
    outputs; to a dimension what reads and writes it in the layers, and its column of the word embedding.
    Heads that share keys and values (grouped-query attention) have each these shared ones.
    """
    anatomy = material.anatomy
    heads = np.zeros((anatomy.layers, anatomy.heads))
    channels = np.zeros((anatomy.layers, anatomy.channels))
    hidden = torch.zeros(anatomy.hidden_size)
    with torch.no_grad():
        if "embeddings" in roles(anatomy.form):
            hidden += _squares(anatomy.model.get_input_embeddings().weight, over=0)
        for part in anatomy.parts:
            heads[part.index] = _of_heads(part, anatomy)
            channels[part.index] = _of_channels(part, anatomy)
            for read in (*part.by_head.values(), *part.ffn_ups):
                hidden += _squares(read.weight, over=0)
            for written in (part.attention_output, part.ffn_down):
                if written is not None:
                    hidden += _squares(Rows(written).weight, over=1)
    return Scores(np.sqrt(heads), np.sqrt(channels), np.sqrt(hidden.double().numpy()))


def fisher(material: Material) -> Scores:
    """Diagonal Fisher information of each unit's gate on training rows (Kwon et al. 2022, eq. 5).

    By one score alone: without their search over layers, rearrangement and tuning of masks.
    """
    anatomy, found = material.anatomy, Fisher().weigh(material)
    heads = [
        [found.of(Element("head", layer, head)) for head in range(anatomy.heads)]
        for layer in range(anatomy.layers)
    ]
    channels = [found.channel_scores(layer) for layer in range(anatomy.layers)]
    hidden = None if found.hidden is None else found.hidden_scores()
    return Scores(np.array(heads), np.array(channels), hidden)


SCORES: dict[Contender, Callable[[Material], Scores]] = {"magnitude": magnitude, "fisher": fisher}


@dataclass(frozen=True)
class Units:
    """What there is to choose from: the units of `full`, as far as they are `allowed` to go, by `scores`.

    `start`: the steps that come before.
    """

    full: Shape
    scores: Scores
    allowed: Container[str]
    start: Recipe = field(default_factory=Recipe)

    def at(self, ratio: float, heads: float | None = None, channels: float | None = None) -> Recipe:
        """What keeps `ratio` (0 to 1) of the dimensions, and of the heads and channels of every layer.

        Of the last two other parts where they are given. At least one of each, and no block goes as a whole.
        """
        of_heads = ratio if heads is None else heads
        of_channels = ratio if channels is None else channels
        scores, hidden = self.scores, self.scores.hidden if "prune_hidden" in self.allowed else None
        elements = []
        for index, layer in enumerate(self.full.layers):
            if not layer.present or not self.full.leads(index):
                continue
            if "prune_heads" in self.allowed:
                elements += [Element("head", index, head) for head in least(scores.heads[index], of_heads)]
            if "prune_weight_groups" in self.allowed and (gone := least(scores.channels[index], of_channels)):
                elements.append(Element("group", index, channels=gone))
        if hidden is not None and (gone := least(hidden, ratio)):
            elements.append(Element("hidden_group", ALL_LAYERS, channels=gone))
        return self.start.then(*(element.step() for element in elements))

    def largest(self, fits: Callable[[Recipe], bool]) -> Recipe:
        """What keeps the largest part that `fits`; the smallest part where none does.

        Widths are rounded, dimensions most coarsely; what that leaves goes to heads and channels, then to
        channels alone. Of two parts the smaller one has to fit where the larger one does.
        """
        both = _most(lambda part: fits(self.at(part)))
        heads = _most(lambda part: fits(self.at(both, part, part)), both)
        channels = _most(lambda part: fits(self.at(both, heads, part)), heads)
        return self.at(both, heads, channels)


def _most(fits: Callable[[float], bool], least_part: float = 0.0) -> float:
    """The largest part from `least_part` to 1, in steps, that fits; `least_part` where none does."""
    kept, tried = round(least_part * STEPS), STEPS + 1
    while tried - kept > 1:
        between = (kept + tried) // 2
        kept, tried = (between, tried) if fits(between / STEPS) else (kept, between)
    return kept / STEPS


def least(scores: NDArray[np.float64], ratio: float) -> tuple[int, ...]:
    """Indices of the lowest scores, ascending, so that about `ratio` of all stay; of equals the first go."""
    unit = ALIGNMENT if scores.size >= FINE else 1
    keep = min(scores.size, max(unit, round(ratio * scores.size / unit) * unit))
    return tuple(sorted(np.argsort(scores, kind="stable")[: scores.size - keep].tolist()))


def _search(run: Run, contender: Contender) -> dict[str, Any]:
    """What stage search answers, by the contender's choice."""
    began, baseline = time.monotonic(), run.workspace.result("baseline")
    assert baseline is not None
    full = run.anatomy.full_shape()
    scores = SCORES[contender](material(run, run.anatomy, full))
    units = Units(full, scores, run.spec.approximations, start_recipe(run))
    reference, costs = dense_reference(run), cost_model(run)
    recipe = _sized(run, units, Goal.of(run.spec.constraints, reference, margin=MARGIN))
    utmost = costs(run.shape(units.at(0.0)))
    return {
        "recipe": recipe.model_dump(mode="json"),
        "candidates": baseline["candidates"],
        "proved_infeasible": False,
        "utmost": {"speedup": reference.ms / utmost.ms, "size_reduction": reference.bytes / utmost.bytes},
        "seconds": time.monotonic() - began,
    }


def _sized(run: Run, units: Units, goal: Goal) -> Recipe:
    """The part kept by predicted costs, corrected by the times of untrained files where speed is bounded."""
    costs, folder = cost_model(run), run.workspace.folder("search") / "sizing"

    def within(bounds: Goal) -> Recipe:
        return units.largest(lambda recipe: bounds.met(costs(run.shape(recipe))))

    if (aim := goal.ms) is None:
        return within(goal)

    def taken(tried: Recipe, turn: int) -> float:
        file = untrained_file(run, tried, folder)
        return timed(run, file, *dense_files(run), share=TIMING_SHARE).ms

    def corrected(tried: Recipe, ms: float) -> Recipe:
        return within(replace(goal, ms=corrected_ms(run, tried, ms, aim)))

    return brought_to(aim, within(goal), taken, corrected)


def _recover(run: Run, seconds: float) -> dict[str, Any]:
    """What stage recover answers: the structure distilled once, as a single rung."""
    searched, folder = run.workspace.result("search"), run.workspace.folder("recover")
    assert searched is not None
    recipe = vocabulary_recipe(run).then(*Recipe.model_validate(searched["recipe"]).steps)
    began = time.monotonic()
    student, recipe = _trained(run, recipe, seconds)
    rung = measured_rung(run, 0, student, recipe, folder / "rung-0", time.monotonic() - began)
    save_folder(student, run.tokenizer, folder / "rung-0" / "model")
    report_rung(run, rung, student)
    write_json(folder / "climb.json", {"rungs": [rung.to_json()]})
    return {**rung.to_json(), "rungs": 1, "folder": "rung-0"}


def _trained(run: Run, recipe: Recipe, seconds: float) -> tuple[PreTrainedModel, Recipe]:
    """The model of a recipe, recovered as the spec has it, and the recipe with what was done."""
    if run.spec.recovery == "reconstruct":
        return reconstructed(run, recipe)[:2]
    dense = run.anatomy.model
    student = sliced(dense, run.shape(recipe))
    if run.spec.recovery == "off":
        return student, recipe
    options = recovery_options(run, learning_rate(run, student, dense), seconds)
    _, fitted = recovered(run, student, options, stage="recover")
    if fitted is None:
        return student, recipe
    step = Recover(epochs=fitted.epochs, learning_rate=fitted.learning_rate, seed=run.spec.seed)
    return student, recipe.then(step)


def _of_heads(part: LayerParts, anatomy: Anatomy) -> NDArray[np.float64]:
    """Sum of the squares of each head's weights in a layer, (heads,)."""
    total = np.zeros(anatomy.heads)
    if part.attention_output is None:
        return total
    for name, rows in part.by_head.items():
        by_head = _squares(rows.weight, over=1).unflatten(0, (-1, anatomy.head_size)).sum(1)
        shared = [heads_of(name, (head,), anatomy.kv_group)[0] for head in range(anatomy.heads)]
        total += by_head.double().cpu().numpy()[shared]
    output = _squares(Rows(part.attention_output).weight, over=0).unflatten(0, (-1, anatomy.head_size)).sum(1)
    total += output.double().cpu().numpy()
    return total


def _of_channels(part: LayerParts, anatomy: Anatomy) -> NDArray[np.float64]:
    """The same of each channel, (channels,)."""
    if part.ffn_down is None:
        return np.zeros(anatomy.channels)
    total = _squares(Rows(part.ffn_down).weight, over=0)
    for up in part.ffn_ups:
        total = total + _squares(up.weight, over=1)
    found: NDArray[np.float64] = total.double().cpu().numpy()
    return found


def _squares(weight: Tensor, over: int) -> Tensor:
    """Squares of a (outputs, inputs) matrix, summed over one of its axes."""
    return weight.detach().float().square().sum(over).cpu()
