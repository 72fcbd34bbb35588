"""The certificate: both models' exported files, loaded afresh, beside each other, on the holdout.

Nothing handed in is believed but the parameters and MACs: metric, latency and size are measured here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.spec import (
    Certificate,
    JobSpec,
    Latency,
    Loadable,
    MetricValue,
    ModelMeasurements,
    Ratios,
    Recipe,
    metric_value,
)
from worker.engine.measure import machine
from worker.engine.measure.errors import MeasurementError
from worker.engine.measure.files import loaded_bytes, sha256
from worker.engine.measure.inputs import BenchInputs, Rows
from worker.engine.measure.intervals import (
    PairedBootstrap,
    paired_bootstrap,
)
from worker.engine.measure.latency import QUIET, Milliseconds, Timing, compare
from worker.engine.measure.probing import ModelFile, probe
from worker.engine.measure.verdict import Measured, evaluate_constraints, judge, told_nearest, told_verdict
from worker.engine.reporting import Reporter, SilentReporter
from worker.engine.tasks import Scorer

STEPS = 4
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Holdout:
    """Token ids (special tokens included) of the split that judges, sequence by sequence, and how it scores.

    `choices`: sequences of one row where the model takes them together. `next_token`: see `BenchInputs`.
    """

    ids: Rows
    scorer: Scorer
    token_types: Rows | None = None
    pad_id: int = 0
    choices: int | None = None
    next_token: bool = False


@dataclass(frozen=True)
class CertifiedModel:
    """An exported model in the target's runtime, and its counts (MACs of one example).

    `holdout`: the rows that judge, as the tokenizer that is delivered with the model cuts them; None where
    it is the dense model's.
    """

    file: ModelFile
    parameters: int
    macs: int
    holdout: Holdout | None = None


@dataclass(frozen=True)
class CertifyInputs:
    """`artifacts` are all files handed to the user, by their names; the certificate is not among them.

    `dense` is the fp32 model with the same export and runtime as `optimized`. `proved_infeasible`:
    by predicted costs no recipe can meet the constraints. `nearest` and `notes` as in the certificate,
    which leaves out of `nearest` what is met after all.
    """

    spec: JobSpec
    recipe: Recipe
    dense: CertifiedModel
    optimized: CertifiedModel
    holdout: Holdout
    artifacts: Mapping[str, Path]
    loadable: Loadable
    proved_infeasible: bool = False
    nearest: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Issued:
    """The certificate, and what it rests on: both models' logits on the holdout, as `Scorer` takes them, the
    paired bootstrap of their metric, and the speedup of every round of the timing, [rounds]."""

    certificate: Certificate
    dense_logits: Logits
    optimized_logits: Logits
    paired: PairedBootstrap
    round_speedups: Milliseconds


def certify(inputs: CertifyInputs, reporter: Reporter | None = None, *, seconds: float = 14.0) -> Issued:
    """Measure both models and judge every constraint; timing takes about `seconds`.

    Raises MeasurementError when a file cannot be loaded or run in the target's runtime.
    """
    reporter = reporter or SilentReporter()
    spec, target = inputs.spec, inputs.spec.target
    host = machine.describe(target.device, threads=target.threads)

    def step(number: int, message: str) -> None:
        reporter.check()
        reporter.progress("certify", number, STEPS, message)

    step(0, "evaluating the dense model on the holdout")
    dense_logits = _logits(inputs.dense, inputs, host.threads)
    step(1, "evaluating the optimized model on the holdout")
    optimized_logits = _logits(inputs.optimized, inputs, host.threads)
    scorer, own_scorer = inputs.holdout.scorer, (inputs.optimized.holdout or inputs.holdout).scorer
    paired = paired_bootstrap(
        scorer, scorer.marks(dense_logits), own_scorer.marks(optimized_logits), seed=spec.seed
    )
    step(2, "timing both models in turns")
    comparison = compare(
        {"dense": inputs.dense.file, "optimized": inputs.optimized.file},
        _timed_inputs(inputs, inputs.dense),
        own_inputs={"optimized": _timed_inputs(inputs, inputs.optimized)},
        threads=host.threads,
        seconds=seconds,
        on_round=reporter.check,
    )
    if comparison.waited > QUIET:
        reporter.event(
            "noisy_machine",
            "other processes used the processors while the models were timed; the speedup is uncertain",
            processor_wait=comparison.waited,
        )
    step(3, "hashing the exported files")
    dense = _measurements(spec, inputs.dense, paired.dense, comparison["dense"])
    optimized = _measurements(spec, inputs.optimized, paired.optimized, comparison["optimized"])
    speedup = comparison.speedup("dense", "optimized")
    measured = _measured(dense, optimized, speedup, paired, inputs.loadable)
    results = evaluate_constraints(spec.constraints, measured)
    verdict = judge(results, proved_infeasible=inputs.proved_infeasible)
    closest = {
        result.name: inputs.nearest[result.name]
        for result in results
        if not result.met and result.name in inputs.nearest
    }
    certificate = Certificate(
        dense=dense,
        optimized=optimized,
        ratios=Ratios(
            speedup=speedup,
            size_reduction=dense.size_bytes / optimized.size_bytes,
            relative_drop=paired.relative_drop,
            relative_drop_interval=paired.relative_drop_interval(0.95),
        ),
        constraints=results,
        constraints_met=all(result.met for result in results),
        verdict=verdict,
        loadable=inputs.loadable,
        device=host.device,
        runtime=target.runtime,
        versions=host.versions,
        seed=spec.seed,
        spec_digest=spec.digest(),
        artifacts={name: sha256(file) for name, file in sorted(inputs.artifacts.items())},
        nearest=closest,
        notes=(*scorer.task.notes, *inputs.notes, *told_verdict(verdict), *told_nearest(closest)),
        holdout_rows=len(scorer),
        recipe=inputs.recipe,
        spread={
            "speedup": comparison.spread("dense", "optimized"),
            "speedup_median": comparison.median_speedup("dense", "optimized"),
            "processor_wait": comparison.waited,
        },
    )
    step(STEPS, "certified")
    rounds = comparison.ratios("dense", "optimized")
    return Issued(certificate, dense_logits, optimized_logits, paired, rounds)


def _logits(model: CertifiedModel, inputs: CertifyInputs, threads: int) -> Logits:
    """Of every holdout row, in batches of the target's size: what int8 answers depends on its batch."""
    holdout = model.holdout or inputs.holdout
    batches = BenchInputs.in_order(
        holdout.ids,
        batch_size=inputs.spec.target.batch_size,
        pad_id=holdout.pad_id,
        token_types=holdout.token_types,
        choices=holdout.choices,
        next_token=holdout.next_token,
    )
    with probe(model.file, batches, threads=threads) as running:
        logits = running.logits()
    if logits.shape[0] != holdout.scorer.outputs or not np.isfinite(logits).all():
        raise MeasurementError(
            f"{model.file.path.name} answers {logits.shape[0]} rows for {holdout.scorer.outputs}, "
            "or values that are not numbers",
            remedy="submit the job again without the approximation that was applied last",
            pointer="/approximations",
        )
    return logits


def _timed_inputs(inputs: CertifyInputs, model: CertifiedModel) -> BenchInputs:
    target, holdout = inputs.spec.target, model.holdout or inputs.holdout
    return BenchInputs.sample(
        holdout.ids,
        batch_size=target.batch_size,
        sequence_length=target.sequence_length,
        pad_id=holdout.pad_id,
        token_types=holdout.token_types,
        choices=holdout.choices,
        seed=inputs.spec.seed,
    )


def _measurements(spec: JobSpec, model: CertifiedModel, score: float, timing: Timing) -> ModelMeasurements:
    return ModelMeasurements(
        metric=MetricValue(name=spec.metric, value=metric_value(spec.metric, score)),
        latency_ms=Latency(p50=timing.p50, p95=timing.p95),
        throughput=timing.throughput,
        size_bytes=loaded_bytes(model.file),
        parameters=model.parameters,
        macs=model.macs,
    )


def _measured(
    dense: ModelMeasurements,
    optimized: ModelMeasurements,
    speedup: float,
    paired: PairedBootstrap,
    loadable: Loadable,
) -> Measured:
    return Measured(
        dense_metric=paired.dense,
        optimized_metric=paired.optimized,
        dense_bytes=dense.size_bytes,
        optimized_bytes=optimized.size_bytes,
        speedup=speedup,
        p50=optimized.latency_ms.p50,
        p95=optimized.latency_ms.p95,
        throughput=optimized.throughput,
        paired=paired,
        loadable=loadable,
    )
