"""report.json: what a job asked, measured and did. The keys are stable; `version` counts their changes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from models.spec import CandidateMeasurements, ModelMeasurements, Ratios, Verdict
from models.spec.base import Document

VERSION: Literal[1] = 1
Part = Literal["embeddings", "attention", "ffn", "head", "graph"]
Interval = tuple[float, float]
GoneWith = Literal["head", "attention", "layer"]


class JudgedConstraint(Document):
    """A bound and what was measured. `interval` is of the same quantity, None where it is exact or has none.

    `interval_of` says how it came about. With a confidence level `measured` is its unfavourable end.
    """

    name: str
    bound: Literal["at_least", "at_most"]
    required: float
    measured: float
    met: bool
    interval: Interval | None = None
    interval_of: Literal["paired bootstrap, 95 %", "rounds of the timing"] | None = None


class CandidateLine(Document):
    """A candidate as the search measured it on the selection split.

    `on_front`: no other candidate is at least as good in metric, bytes and milliseconds and better in one;
    None where one of the three is not known. `delivered`: the last one whose recipe is the certificate's.
    """

    number: int
    stage: str
    accepted: bool
    reason: str
    summary: str
    measurements: CandidateMeasurements
    on_front: bool | None
    delivered: bool


class Significance(Document):
    """`significance.json` as the map shows it: `elements` as there, in its keys.

    Losses are at `temperature`; files of earlier versions do not name it.
    """

    base_loss: float
    temperature: float = 1.0
    rows: int
    rank_agreement: dict[str, float | None]
    reliability: dict[str, float | None]
    elements: tuple[dict[str, Any], ...]


class Attention(Document):
    """Mean parts of a head's attention in the dense model, which sum up to 1: to special tokens, and, among
    the others, to the token itself, the one before and the one after, and the rest."""

    special: float
    current: float
    adjacent: float
    other: float


class HeadAttention(Attention):
    """One head of the dense model; `gone_with`: what was removed, the head itself or the whole of its
    attention block or layer, None where it is kept."""

    layer: int
    head: int
    gone_with: GoneWith | None


class MeanAttention(Attention):
    """Of so many heads, each counting the same."""

    heads: int


class AttentionProbe(Document):
    """What removed heads attended to, beside those that are kept, on `rows` of the selection split with so
    many `tokens`. `removed` and `kept` are None where there are none; `skipped` says why nothing was
    measured."""

    skipped: str | None
    rows: int
    tokens: int
    heads: tuple[HeadAttention, ...]
    removed: MeanAttention | None
    kept: MeanAttention | None
    summary: str


class SparseHeads(Document):
    """Heads of a layer, as ranges, that read `top_k` tokens only, chosen as `kind` says."""

    kind: str
    top_k: int
    heads: str


class LayerOutline(Document):
    """What is left of a layer; indices are the dense model's, as ranges such as "0-3,7"."""

    layer: int
    present: bool
    heads: str
    heads_kept: int
    heads_of: int
    channels: str
    channels_kept: int
    channels_of: int
    ffn_rank: int | None
    sparse: tuple[SparseHeads, ...]


class Precision(Document):
    """How numbers are stored in the measured file, by part; several where a part mixes them."""

    embeddings: str
    attention: str
    ffn: str
    head: str


class Outline(Document):
    """One model: `rows` of its word embedding, and what lies between its layers' ends."""

    layers: tuple[LayerOutline, ...]
    rows: int
    hidden_size: int
    embedding_rank: int | None
    precision: Precision


class Architecture(Document):
    model_type: str
    before: Outline
    after: Outline


class PartBytes(Document):
    """Bytes of a part in both measured files; `layer` is None outside the layers and for the graph."""

    part: Part
    layer: int | None
    dense: int
    optimized: int


class PartMilliseconds(Document):
    """Predicted milliseconds a call of a part, in the precision that is delivered; `layer` is None for the
    rest of the model: embeddings, head and the call itself."""

    part: Literal["attention", "ffn", "rest"]
    layer: int | None
    whole: float
    optimized: float


class Milliseconds(Document):
    """Where the time goes. Totals are measured, `parts` are of the latency table, scaled to this run.

    `dense`: the dense fp32 model; `whole`: what the search began with, the same in the precision and with the
    word embeddings that are delivered; `optimized`: the delivered model; each in its least disturbed round.
    """

    source: Literal["latency table"] = "latency table"
    dense: float
    whole: float
    optimized: float
    parts: tuple[PartMilliseconds, ...]


class LatencyCell(Document):
    """Milliseconds a call of `batch_size` examples of `length` tokens: each model's fastest round."""

    length: int
    batch_size: int
    dense_ms: float
    optimized_ms: float
    speedup: float


class LatencyGrid(Document):
    """`not_measured`: (length, batch size) that the time did not suffice for."""

    cells: tuple[LatencyCell, ...]
    not_measured: tuple[tuple[int, int], ...]
    threads: int
    seconds: float


class StageTime(Document):
    """Seconds of the run's stopwatch, which goes on over all attempts; `ended` is None of the last stage,
    which writes this."""

    stage: str
    began: float
    ended: float | None
    attempts: int


class Timeline(Document):
    stages: tuple[StageTime, ...]
    seconds: float = Field(description="Used until this was written.")
    budget_seconds: float


class Reproduction(Document):
    """`spec` is the job's; paths are cut to their last name, and the user's `metadata` is left out."""

    command: str
    spec: dict[str, Any]
    versions: dict[str, str]
    seed: int


class Report(Document):
    version: Literal[1] = VERSION
    name: str
    written_at: str = Field(description="UTC, ISO 8601.")
    task: str
    metric: str
    focus: str
    strategy: str
    base_model: str
    dataset: str
    verdict: Verdict
    constraints_met: bool
    nearest_feasible: dict[str, Any] | None = Field(
        description="Of the certificate, where the search found what could be met instead."
    )
    loadable: str
    device: str
    runtime: str
    batch_size: int
    sequence_length: int | Literal["data"]
    threads: int
    holdout_rows: int
    dense: ModelMeasurements
    optimized: ModelMeasurements
    ratios: Ratios
    spread: dict[str, float]
    constraints: tuple[JudgedConstraint, ...]
    candidates: tuple[CandidateLine, ...]
    significance: Significance
    attention: AttentionProbe
    architecture: Architecture
    bytes: tuple[PartBytes, ...]
    milliseconds: Milliseconds
    latency: LatencyGrid
    holdout: dict[str, Any] = Field(description="`holdout.json`: scores, classes and changed rows.")
    timeline: Timeline
    reproduction: Reproduction
