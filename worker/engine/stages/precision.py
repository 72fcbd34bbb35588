"""In how few bits each matrix of the delivered model is kept: tried on the dense model's files.

First all matrices have one precision. Where int8 costs too much of the accuracy that may be lost, and more
than chance makes of two equal files, the matrices that the task needs exactly are kept in fp16, unless layers
would have to go for that while training brings back what int8 costs. Where the file is to be smaller, all
matrices are stored in 4 bits (w4a8, whose products are int8's), or those that the task does not need exactly.
What a matrix loses is measured on the selection split, and so is every file that is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite

from models.spec import Precision, Quantize, Recipe, RecoveryOptions
from worker.engine.approximations.quantize import block_size
from worker.engine.delivery import Delivered, deliver
from worker.engine.measure.intervals import paired_bootstrap
from worker.engine.measure.verdict import allowed_drop
from worker.engine.run import Run
from worker.engine.significance.quantization import quantization_losses
from worker.engine.stages.problem import sample
from worker.engine.stages.vocabulary import too_large, wants_smaller_table
from worker.engine.tasks.divergence import Divergence

SHARE_OF_DROP = 0.25  # of the accuracy drop that is allowed: what 4 bits may cost
SHARE_FOR_INT8 = 0.5  # of it: what int8 may cost before matrices are kept in more bits
SURE = 0.9  # level of the interval that must lie above no loss at all, where a precision is turned down
JUDGED_ROWS = 256  # of the selection split, for how far answers move with one matrix quantized
KEPT_SHARES = (1 / 8, 1 / 4)  # of the matrices, the most significant first
W4A8_SHARES = (1 / 2,)  # of the matrices, the least significant first, where all of them lose too much


def plain_forms(run: Run) -> dict[str, Recipe]:
    """The precisions that all of the dense model is measured in, by name."""
    forms = {"dense": Recipe()}
    if "quantize" in run.spec.approximations and run.spec.wants_int8 and not run.quantizes:
        run.reporter.event(
            "precision.kept",
            "Weights stay fp32: for int8 in torch, torchao has to be installed on the worker.",
        )
    if run.quantizes and run.spec.target.runtime == "torch":
        forms["dense-int8"] = Recipe(steps=(Quantize(embeddings="fp32"),))
    elif run.quantizes:
        forms["dense-int8"] = Recipe(steps=(Quantize(),))
        anatomy = run.dense.anatomy
        table = anatomy.model.get_input_embeddings()
        if block_size(table.embedding_dim) is not None and not anatomy.tied_head:
            forms["dense-int8-int4"] = Recipe(steps=(Quantize(embeddings="int4"),))
    return forms


def plain_precision(run: Run, delivered: Mapping[str, Delivered]) -> str:
    """Which to deliver: int4 embeddings unless they surely cost more than a quarter of the allowed drop.

    Judged on the selection split, against int8 alone.
    """
    int8, int4 = delivered.get("dense-int8"), delivered.get("dense-int8-int4")
    if int8 is None:
        return "dense"
    if int4 is None or _surely_loses(run, int8, int4, _for_4_bits(run, delivered["dense"].metric)):
        return "dense-int8"
    return "dense-int8-int4"


def _surely_loses(run: Run, rival: Delivered, form: Delivered, more_than: float) -> bool:
    """Whether the metric of `form` is lower than its rival's by more than that, and not by chance alone.

    What is turned down has to be paid for with layers: a difference that two equal files show on so many
    rows is no reason to.
    """
    if form.metric >= rival.metric - more_than:
        return False
    scorer = run.dense.scorer
    marks = (scorer.marks(each.logits) for each in (rival, form))
    return paired_bootstrap(scorer, *marks, seed=run.spec.seed).absolute_drop_interval(SURE)[0] > 0.0


def mixed_precision(run: Run, plain: str, delivered: Mapping[str, Delivered]) -> dict[str, Delivered]:
    """Files with several precisions that were worth trying, by name; the last one is the one to deliver.

    `plain` names the precision chosen so far. Empty where nothing is better, and in torch, which has one.
    """
    chosen, dense = delivered[plain], delivered["dense"]
    step = chosen.recipe.quantization()
    if step is None or run.spec.target.runtime == "torch":
        return {}
    allowed = _allowed(run, dense.metric)
    too_much = isfinite(allowed) and _surely_loses(run, dense, chosen, SHARE_FOR_INT8 * allowed)
    if too_much and not _paid_with_layers(run, chosen, dense.size_bytes):
        least = dense.metric - SHARE_FOR_INT8 * allowed
        order = _by_significance(run, "int8")[::-1]
        return _first_that(
            run, f"{plain}-fp16", step, "fp16", order, KEPT_SHARES, lambda form: form.metric >= least
        )
    if wants_smaller_table(run, chosen, dense.size_bytes):
        name, may_cost = f"{plain}-w4a8", _for_4_bits(run, dense.metric)

        def will_do(form: Delivered) -> bool:
            smaller = form.size_bytes < chosen.size_bytes  # of a tiny model the nodes that widen are more
            return smaller and not _surely_loses(run, chosen, form, may_cost)

        everywhere = _delivered(run, name, step.model_copy(update={"weights": "w4a8"}))
        if will_do(everywhere):
            return {name: everywhere}
        return _first_that(run, name, step, "w4a8", _by_significance(run, "w4a8"), W4A8_SHARES, will_do)
    return {}


def _paid_with_layers(run: Run, chosen: Delivered, dense_bytes: int) -> bool:
    """Whether for more bits more would have to be removed, by a job whose training mends what fewer cost.

    Of MiniLM on TREC int8 lost a few of 818 rows; with half of its layers, and distilled, it answered as well
    in int8 and in 4 bits as in fp32.
    """
    trains = isinstance(run.asked.recovery, RecoveryOptions)
    return trains and (run.bounds_speed or too_large(run, chosen, dense_bytes))


def _for_4_bits(run: Run, dense: float) -> float:
    """What they may cost of the metric: nothing is given up that nobody asked for."""
    allowed = _allowed(run, dense)
    return SHARE_OF_DROP * allowed if isfinite(allowed) else 0.0


def _allowed(run: Run, dense: float) -> float:
    """The drop of the metric that is allowed, at least 0; infinite without a bound."""
    return max(0.0, allowed_drop(run.spec.constraints.accuracy, dense))


def _by_significance(run: Run, precision: Precision) -> list[str]:
    """The names of the matrices, that first without whose exact weights the answers move least."""
    judged = sample(run.dense.selection, JUDGED_ROWS, run.spec.seed)
    anatomy = run.dense.anatomy
    run.progress("baseline", 0, 2, "weighing matrices")
    answers = Divergence(anatomy.model, judged, run.task, device=run.device, reporter=run.reporter)
    moved = quantization_losses(anatomy, (precision,), answers.now)[precision]
    return sorted(moved, key=lambda name: (moved[name], name))


def _first_that(
    run: Run,
    name: str,
    step: Quantize,
    precision: Precision,
    order: Sequence[str],
    shares: Sequence[float],
    will_do: Callable[[Delivered], bool],
) -> dict[str, Delivered]:
    """The first file, as shares of the matrices in their order change, that will do."""
    for share in shares:
        changed = dict.fromkeys(sorted(order[: max(1, round(share * len(order)))]), precision)
        form = step.model_copy(update={"matrices": changed})
        tried = f"{name}-{round(share * 100)}"
        delivered = _delivered(run, tried, form)
        if will_do(delivered):
            return {tried: delivered}
    return {}


def _delivered(run: Run, name: str, form: Quantize) -> Delivered:
    """The dense model so quantized."""
    folder = run.workspace.folder("baseline") / name
    return deliver(run, run.dense.anatomy.model, Recipe(steps=(form,)), folder, run.dense)
