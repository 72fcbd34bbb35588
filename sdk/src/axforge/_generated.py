"""Documents of the API. Do not edit: generate_types.py makes this file from docs/openapi.json."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints


class AccuracyConstraint(BaseModel):
    """
    Bounds on the task metric, against the dense model measured in the same run.

    Relative drop is (dense - optimized) / |dense|, and of a metric of which less is better (perplexity)
    (optimized - dense) / |dense|; positive means worse.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    confidence: Annotated[
        str | float | None,
        Field(description="`point` judges the measured value; 0.95 judges that end of the paired interval."),
    ] = "point"
    max: Annotated[
        float | None, Field(description="Highest value allowed, of a metric of which less is better.")
    ] = None
    max_absolute_drop: float | None = None
    max_relative_drop: float | None = None
    min: Annotated[
        float | None, Field(description="Lowest value allowed, of a metric of which more is better.")
    ] = None
    min_gain: Annotated[float | None, Field(description="By how much the metric gets better, at least.")] = (
        None
    )


class ApproximationInfo(BaseModel):
    """
    Something that can be done to a model.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    description: str
    element: Annotated[str, Field(description="What it is done to.")]
    gains: Annotated[list[str], Field(description="What it can improve: speed, size, accuracy.")]
    json_schema: Annotated[dict[str, Any], Field(description="Of its step in a recipe.")]
    name: str
    runtimes: Annotated[list[str], Field(description="Where that takes effect.")]


class Artifact(BaseModel):
    """
    A file that a job delivered.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    created_at: AwareDatetime
    id: str
    media_type: str
    name: Annotated[str, Field(description="Path within the job's delivery.")]
    object: str
    sha256: str
    size: Annotated[int, Field(description="Bytes.")]
    url: Annotated[str, Field(description="Path to download it from.")]


class ArtifactList(BaseModel):
    """
    All files of a job, by name.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    data: list[Artifact]
    has_more: bool
    object: str


class AuditEvent(BaseModel):
    """
    Something that was done in the tenant's name, or refused.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    action: Annotated[
        str,
        Field(
            description="`key.created`, `key.revoked`, `job.created`, `job.cancelled`, `job.deleted`, `upload.created`, `upload.deleted`, `artifact.downloaded` or `access.denied`."
        ),
    ]
    address: Annotated[str | None, Field(description="Where the request came from.")]
    at: AwareDatetime
    data: dict[str, Any]
    id: str
    key_id: Annotated[str | None, Field(description="The key that was used; none before there were keys.")]
    object: str
    request_id: str | None
    subject: Annotated[str | None, Field(description="Id of what it was done to.")]


class AuditEventList(BaseModel):
    """
    A page of audit events, the newest first.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    data: list[AuditEvent]
    has_more: bool
    next_cursor: Annotated[str | None, Field(description="Give it as `cursor` for the next page.")]
    object: str


class BaselineOptions(BaseModel):
    """
    Fine-tuning of the base model, and how the task's texts are cut.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    batch_size: int | None = 32
    epochs: Annotated[int | None, Field(description="At most; default by data size.")] = None
    learning_rate: Annotated[
        float | None, Field(description="Peak; default by the model's width and what it has lost.")
    ] = None
    max_length: Annotated[int | None, Field(description="Longer examples are cut, in tokens.")] = 128


class Budget(BaseModel):
    """
    What a job may spend. The search ends with the best so far when one is used up.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    max_candidates: Annotated[
        int | None,
        Field(
            description="Of the search, which then ends with the best it has come to; the forms of the dense model that are measured before it and what is trained after it do not count."
        ),
    ] = 200
    max_minutes: float | None = 60.0
    max_workers: Annotated[
        int | None, Field(description="Workers that may share the job's work; the result is that of one.")
    ] = 1


class Calibration(BaseModel):
    """
    Training rows that the ranges of activations are read off: so many, drawn by `seed`.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    rows: int
    seed: int


class CandidateMeasurements(BaseModel):
    """
    Measured on the selection split, except `latency_ms` when `latency_source` says predicted.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    latency_ms: float | None = None
    latency_source: str | None = None
    loss: float | None = None
    macs: Annotated[int, Field(description="Multiply-accumulates for one example of the target's length.")]
    metric: float | None = None
    parameters: int
    size_bytes: int
    size_reduction: float | None = None
    speedup: float | None = None


class Columns(BaseModel):
    """
    Which column of the data plays which part; what is left out is guessed and shown.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    answers: Annotated[str | None, Field(description="Texts and starts of the answers, as in SQuAD.")] = None
    choices: Annotated[
        str | list[str] | None, Field(description="The list of choices, or the columns of one choice each.")
    ] = None
    context: Annotated[str | None, Field(description="The text that holds the answer.")] = None
    label: Annotated[
        str | None,
        Field(description="The label, the score, the list of labels, or the list of the words' tags."),
    ] = None
    labels: Annotated[list[str] | None, Field(description="Columns of 0 and 1, one for each label.")] = None
    question: Annotated[str | None, Field(description="The question.")] = None
    text: Annotated[str | None, Field(description="The text; of multiple choice, what to choose for.")] = None
    text_pair: Annotated[str | None, Field(description="The second text of a pair.")] = None
    tokens: Annotated[str | None, Field(description="The list of words that tags are for.")] = None


class DatasetSource(BaseModel):
    """
    Rows of the task's parts, as csv, jsonl or parquet (each may be gzipped), or from the hub.

    A folder, an archive or a hub data set is searched for files named after the splits
    (`train`, `validation` or `dev`, `test`); `train` and `holdout` name them otherwise.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    columns: Columns | None = None
    config: Annotated[str | None, Field(description="Hub configuration; only with `hub`.")] = None
    format: Annotated[str | None, Field(description="File format; default: by the file's name.")] = None
    holdout: Annotated[
        str | None, Field(description="File or hub split that judges; read by the certificate only.")
    ] = None
    hub: Annotated[str | None, Field(description="Repository on the Hugging Face hub.")] = None
    max_train_rows: Annotated[
        int | None, Field(description="Train on a seeded, stratified sample of at most this many rows.")
    ] = None
    path: Annotated[
        str | None,
        Field(description="Folder or file of this machine (command line and embedded server only)."),
    ] = None
    revision: Annotated[str | None, Field(description="Commit, tag or branch; only with `hub`.")] = None
    train: Annotated[str | None, Field(description="File or hub split to train on.")] = None
    upload: Annotated[str | None, Field(description="Id answered by POST /v1/uploads.")] = None
    uri: Annotated[str | None, Field(description="Object or prefix in an object store.")] = None


class DeliveryAttempt(BaseModel):
    """
    One try to send a message.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    at: AwareDatetime
    attempt: int
    duration_ms: int
    error: Annotated[str | None, Field(description="Why the message was not taken.")]
    response: Annotated[str, Field(description="At most 200 characters of an answer that was no success.")]
    status_code: Annotated[int | None, Field(description="What the receiver answered, if it did.")]


class Event(BaseModel):
    """
    Something that happened to a job.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    attempt: int
    created_at: AwareDatetime
    data: dict[str, Any]
    id: Annotated[int, Field(description="Rises with time; `after` and `Last-Event-ID` resume behind it.")]
    job_id: str
    level: str
    message: str
    object: str
    type: str


class EventList(BaseModel):
    """
    A page of events, the oldest first.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    data: list[Event]
    has_more: bool
    object: str


class FieldProblem(BaseModel):
    """
    One field that is wrong.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    detail: str
    parameter: Annotated[str | None, Field(description="Query, path or header parameter.")] = None
    pointer: Annotated[str | None, Field(description="RFC 6901 pointer into the body.")] = None
    remedy: str | None = None


class GroupSizes(BaseModel):
    """
    How many elements go together where single ones are too many to weigh.

    The default is a twelfth, rounded to a multiple of 32 where it is that large: widths that are multiples
    of what processors multiply at once waste nothing.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    ffn: Annotated[
        int | None, Field(description="Channels of a weight group; default: a twelfth of the layer's.")
    ] = None
    hidden: Annotated[
        int | None, Field(description="Dimensions of a hidden group; default: a twelfth of the width.")
    ] = None


class HardAttention(BaseModel):
    """
    Keep the `top_k` largest attention probabilities of each row, without re-normalising.

    In the `heads` of the layer that are named; null for all of them.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    approximation: str | None = "hard_attention"
    heads: list[int] | None = None
    layer: int
    top_k: int | None = 30


class Health(BaseModel):
    """
    The process is alive.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    status: str
    version: str


class JobError(BaseModel):
    """
    Why a job failed, shaped like a problem.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    code: str
    detail: str
    pointer: Annotated[
        str | None, Field(description="RFC 6901 pointer into the spec, if a field is to blame.")
    ]
    remedy: str | None
    retryable: bool


class JobLinks(BaseModel):
    """
    Paths below the service's address.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    artifacts: str
    cancel: str
    candidates: str
    events: str
    self: str


class LearnMasks(BaseModel):
    """
    Masks were trained at this point, and their means folded into the weights that stay.

    For `steps` steps on `rows` training rows, by distillation from the dense model; `weights` says whether
    these were trained too.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    approximation: str | None = "learn_masks"
    rows: int
    seed: int
    steps: int
    weights: bool


class LearnedOptions(BaseModel):
    """
    Training of masks with the information bottleneck (strategies vtrans, fast-vtrans, faster-vtrans).

    What must go follows from `constraints.speed` and `constraints.size`; `target` asks for more, or for
    something else, such as a part of the computation. All of these hold together.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    batch_size: int | None = 32
    constraint: Annotated[
        str | None,
        Field(
            description="What `target` is a part of: the parameters, the multiply-accumulates of one example (flops), or the milliseconds of a call on the target by the latency table, in the precision that is delivered."
        ),
    ] = "parameters"
    data_fraction: Annotated[
        float | None,
        Field(
            description="Part of the training rows that masks are trained on; default: 1 with vtrans, 0.03 with fast-vtrans and faster-vtrans."
        ),
    ] = None
    epochs: Annotated[int | None, Field(description="At most; default by data size.")] = None
    kl_weight: Annotated[
        float | None, Field(description="Weight of the Kullback-Leibler divergence of the masks.")
    ] = 1e-06
    learning_rate: Annotated[
        float | None, Field(description="Peak, of the weights; default by the model's width.")
    ] = None
    mask_learning_rate: Annotated[float | None, Field(description="Of the masks.")] = 0.05
    multiplier_learning_rate: Annotated[
        float | None, Field(description="Of the Lagrangian multipliers, which climb.")
    ] = 0.1
    target: Annotated[
        float | None, Field(description="The part of it that goes (the sparsity); default: no such bound.")
    ] = None
    warm_up: Annotated[
        float | None, Field(description="Part of the steps in which the target rises from nothing.")
    ] = 0.3


class Limits(BaseModel):
    """
    The most that this service takes.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    max_candidates: int
    max_minutes: float
    max_wait_seconds: float
    spec_max_bytes: int
    upload_max_bytes: int


class LowRankEmbeddings(BaseModel):
    """
    The word embedding becomes a table of `rank` values a row, and a matrix from them to its width.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    approximation: str | None = "low_rank_embeddings"
    rank: int


class LowRankFfn(BaseModel):
    """
    Both FFN matrices of one layer become products of two with `rank` values between them.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    approximation: str | None = "low_rank_ffn"
    layer: int
    rank: int


class ModelSource(BaseModel):
    """
    A pre-trained or fine-tuned transformer: a folder with config.json and *.safetensors.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    hub: Annotated[str | None, Field(description="Repository on the Hugging Face hub.")] = None
    path: Annotated[
        str | None,
        Field(description="Folder or file of this machine (command line and embedded server only)."),
    ] = None
    revision: Annotated[str | None, Field(description="Commit, tag or branch; only with `hub`.")] = None
    upload: Annotated[str | None, Field(description="Id answered by POST /v1/uploads.")] = None
    uri: Annotated[str | None, Field(description="Object or prefix in an object store.")] = None


class Part(BaseModel):
    """
    A part that the service stands on.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    detail: str
    name: str
    status: str


class Progress(BaseModel):
    """
    How far a run is.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    eta_seconds: Annotated[float | None, Field(description="Until the run ends, at the rate so far.")]
    fraction: Annotated[float | None, Field(description="Of the whole run, from 0 to 1.")]
    message: str
    stage: Annotated[
        str | None, Field(description="prepare, baseline, analyse, search, recover, export or certify.")
    ]
    step: Annotated[int | None, Field(description="Steps of the stage that are done.")]
    total: Annotated[int | None, Field(description="Steps of the stage, where known.")]


class PruneBlocks(BaseModel):
    """
    A whole attention or FFN block is removed: only its residual path and layer norm remain.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    approximation: str | None = "prune_blocks"
    blocks: list[str]


class PruneHeads(BaseModel):
    """
    Heads of one layer are removed: their context is zero.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    approximation: str | None = "prune_heads"
    heads: list[int]
    layer: int


class PruneHidden(BaseModel):
    """
    Dimensions of the residual stream are removed from every module that reads or writes it.

    Norms are taken over the dimensions that are left. Heads keep their number and size.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    approximation: str | None = "prune_hidden"
    dimensions: Annotated[str, Field(description="Those that go.")]


class PruneLayers(BaseModel):
    """
    Whole layers are skipped: the layer's output is its input.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    approximation: str | None = "prune_layers"
    layers: list[int]


class PruneVocabulary(BaseModel):
    """
    Rows of the word embedding are removed and the tokenizer rewritten: texts are cut into the tokens left.

    `rows` are those that stay, by their ids in the dense model's vocabulary. In the smaller one they are
    numbered anew, in the same order.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    approximation: str | None = "prune_vocabulary"
    rows: str


class PruneWeightGroups(BaseModel):
    """
    FFN channels (intermediate neurons) of one layer are removed; the output bias stays.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    approximation: str | None = "prune_weight_groups"
    channels: list[int]
    layer: int


class Quantize(BaseModel):
    """
    Weights of the ONNX export in fewer bits.

    `weights` is the form of all matrices, `matrices` of those that have another one. In int8 the products
    are of integers too, with activations quantized when they are known, or by the ranges that they have on
    the rows of `calibration`. w4a8 weights are int8 ones that the file holds in 4 bits, with a whole step
    size for every 32 values: the runtime widens them once, when it loads the file, and products are those of
    int8. int4 weights have a float scale for every 32 values, fp16 weights none; both are widened again as
    they are used. `embeddings` is the form of the word embedding table: int8 with one scale, int4 with a
    scale for every few values of a row, or half precision.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    approximation: str | None = "quantize"
    calibration: Calibration | None = None
    embeddings: str | None = "int8"
    matrices: (
        dict[Annotated[str, StringConstraints(pattern=r"^layer\.\d+\.(attention|ffn)\.(input|output)$")], str]
        | None
    ) = None
    per_channel: bool | None = True
    weights: str | None = "int8"


class Quota(BaseModel):
    """
    One limit, and what is used of it.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    limit: Annotated[int | float | None, Field(description="None is without limit.")]
    used: int | float


class QuotaState(BaseModel):
    """
    The limit that a request met.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    asked: Annotated[
        int | None, Field(description="What the request would have added, where that is known.")
    ] = None
    limit: Annotated[int | float, Field(description="What the tenant may have.")]
    name: str
    used: Annotated[int | float, Field(description="What it has.")]


class Quotas(BaseModel):
    """
    What the caller may have, and has.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    compute_minutes: Annotated[Quota, Field(description="Of runs within `window_days`.")]
    object: str
    queued_jobs: Quota
    running_jobs: Annotated[Quota, Field(description="More than these wait in the queue.")]
    stored_bytes: Annotated[Quota, Field(description="Uploads and artifacts together.")]
    waiting_for: Annotated[
        str | None,
        Field(
            description="The limit that keeps queued jobs from being begun; None: nothing but a free worker."
        ),
    ]
    window_days: int


class Readiness(BaseModel):
    """
    Whether requests can be served; `degraded` serves all of them, only later.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    parts: list[Part]
    status: str


class Recipe(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    steps: list[dict[str, Any]] | None = None


class Reconstruct(BaseModel):
    """
    Output projections were solved anew at this point, without training.

    From the first layer upwards, by linear least squares on `rows` training rows drawn by `seed`, so that
    what is left of each block gives what the dense model has after it. `damping` holds the weights where
    they were.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    approximation: str | None = "reconstruct"
    damping: float
    rows: int
    seed: int


class Recover(BaseModel):
    """
    Weights were trained at this point, by distillation from the dense model.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    approximation: str | None = "recover"
    epochs: int
    learning_rate: float
    seed: int


class RecoveryOptions(BaseModel):
    """
    Distillation of the approximated model from the dense one.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    attention: Annotated[
        float | None, Field(description="Weight of the attention maps in the loss; 0 leaves them out.")
    ] = 0.0
    batch_size: int | None = 32
    epochs: Annotated[int | None, Field(description="At most; default by data size.")] = None
    learning_rate: Annotated[
        float | None, Field(description="Peak; default by the model's width and what it has lost.")
    ] = None
    schedule: Annotated[
        str | None,
        Field(
            description="`one_shot` trains the structure that the search ends with; `gradual` comes to it in steps and trains after each; `auto` is gradual where much has to go and time allows it."
        ),
    ] = "auto"


class SignMatchingAttention(BaseModel):
    """
    Each token reads the `top_k` whose keys agree with its query in most signs.

    `variant`: `average` takes the mean of their values, `softmax` weighs them by their scores. In the `heads`
    of the layer that are named; null for all of them.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    approximation: str | None = "sign_matching_attention"
    heads: list[int] | None = None
    layer: int
    top_k: int | None = 30
    variant: str | None = "softmax"


class SignificanceOptions(BaseModel):
    """
    Which estimates are reported, which one the search goes by, and how sure a quick rejection must be.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    drives: Annotated[
        str | None, Field(description="What narrowing goes by: the least of it for what is saved goes first.")
    ] = "fisher"
    error_rate: Annotated[
        float | None,
        Field(
            description="Chance, at most, that a change is given up early that all rows would have accepted."
        ),
    ] = 0.01
    estimators: Annotated[
        list[str] | None,
        Field(description="Reported beside exact ablation and Fisher, which always are; default: all."),
    ] = None


class SizeConstraint(BaseModel):
    """
    Bounds on the bytes of the exported model file.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    max_bytes: int | None = None
    min_reduction: float | None = None


class SpeedConstraint(BaseModel):
    """
    Bounds on time per call at the target's batch size and lengths.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    max_latency_ms: float | None = None
    min_speedup: float | None = None
    min_throughput: Annotated[float | None, Field(description="Examples per second.")] = None
    percentile: Annotated[str | None, Field(description="Which latency max_latency_ms bounds.")] = "p50"


class StrategyInfo(BaseModel):
    """
    A way to search for the best recipe.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    description: str
    focuses: list[str]
    name: str


class Target(BaseModel):
    """
    Where the model will run, and so where it is measured.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    batch_size: int | None = 1
    device: str | None = "cpu"
    runtime: str | None = "onnxruntime"
    sequence_length: Annotated[
        str | int | None,
        Field(description="Tokens per example; `data` means the lengths that the data set has."),
    ] = "data"
    threads: Annotated[int | None, Field(description="Default: all processors of the worker.")] = None


class UploadKinds(BaseModel):
    """
    File name endings that are taken.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    dataset: list[str]
    model: list[str]


class WebhookWithSecret(BaseModel):
    """
    A webhook with its secret, which is shown this once.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    created_at: AwareDatetime
    description: str
    disabled_reason: Annotated[
        str | None,
        Field(
            description="`gone`: the receiver answered 410. `failing`: it took nothing for days. null: enabled, or disabled by you."
        ),
    ]
    enabled: bool
    events: list[str]
    failing_since: Annotated[AwareDatetime | None, Field(description="First failure after the last success.")]
    id: str
    object: str
    previous_secret_until: Annotated[
        AwareDatetime | None,
        Field(description="Messages are also signed with the secret before the last rotation until then."),
    ]
    secret: Annotated[
        str | None,
        Field(
            description="Verifies the signatures. Keep it; it is not shown again: null if the answer is a replay."
        ),
    ]
    updated_at: AwareDatetime
    url: str


class ApiKey(BaseModel):
    """
    A key, without its secret, which nobody has but who created it.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    created_at: AwareDatetime
    expires_at: AwareDatetime | None
    id: str
    last_used_at: Annotated[AwareDatetime | None, Field(description="To the minute.")]
    name: str
    object: str
    prefix: Annotated[str, Field(description="How the secret begins, to recognise it.")]
    revoked_at: AwareDatetime | None
    scopes: list[str]


class ApiKeyList(BaseModel):
    """
    A page of keys, the newest first.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    data: list[ApiKey]
    has_more: bool
    next_cursor: Annotated[str | None, Field(description="Give it as `cursor` for the next page.")]
    object: str


class Candidate(BaseModel):
    """
    A recipe that the job tried, with what was measured.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    accepted: bool
    created_at: AwareDatetime
    export_job_id: Annotated[
        str | None, Field(description="The job that exports it, where that was asked for.")
    ]
    job_id: str
    measurements: CandidateMeasurements
    number: int
    object: str
    on_front: Annotated[
        bool,
        Field(
            description="No other measured candidate so far is as accurate, as small and as fast, and better in one of these. False of candidates whose time is only predicted."
        ),
    ]
    reason: Annotated[str, Field(description="Why it was accepted or refused.")]
    recipe: Recipe
    stage: str


class CandidateList(BaseModel):
    """
    A page of candidates, by number.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    data: list[Candidate]
    has_more: bool
    object: str


class Capabilities(BaseModel):
    """
    What can be asked of this service.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    approximations: list[ApproximationInfo]
    architectures: Annotated[list[str], Field(description="`model_type`s of base models.")]
    devices: list[str]
    exports: list[str]
    job_spec_schema: Annotated[dict[str, Any], Field(description="JSON Schema (2020-12) of POST /v1/jobs.")]
    limits: Limits
    metrics: list[str]
    object: str
    runtimes: list[str]
    sources: Annotated[list[str], Field(description="Where models and data may come from.")]
    stages: list[str]
    strategies: list[StrategyInfo]
    task_architectures: Annotated[dict[str, list[str]], Field(description="Those that serve each task.")]
    task_metrics: Annotated[
        dict[str, list[str]], Field(description="What each task is scored by, the default first.")
    ]
    tasks: list[str]
    uploads: UploadKinds
    version: str


class Constraints(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    accuracy: AccuracyConstraint | None = None
    loadable: Annotated[
        str | None,
        Field(
            description="`native`: plain `from_pretrained` of transformers loads the safetensors folder, so that only whole layers, equal numbers of FFN channels in all layers and vocabulary rows go."
        ),
    ] = None
    size: SizeConstraint | None = None
    speed: SpeedConstraint | None = None


class CreatedApiKey(BaseModel):
    """
    A new key with its secret.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    created_at: AwareDatetime
    expires_at: AwareDatetime | None
    id: str
    last_used_at: Annotated[AwareDatetime | None, Field(description="To the minute.")]
    name: str
    object: str
    prefix: Annotated[str, Field(description="How the secret begins, to recognise it.")]
    revoked_at: AwareDatetime | None
    scopes: list[str]
    secret: Annotated[
        str | None,
        Field(
            description="Shown here and never again: null if the answer is a replay. Send it as `Authorization: Bearer ...`."
        ),
    ]


class JobSpec(BaseModel):
    """
    A job as the user writes it (YAML or JSON).
    """

    model_config = ConfigDict(
        extra="allow",
    )
    approximations: Annotated[
        list[str] | None,
        Field(
            description="What may be done to the model; default: all that go with the task but sign_matching_attention."
        ),
    ] = None
    base_model: ModelSource
    baseline: BaselineOptions | None = None
    budget: Budget | None = None
    constraints: Constraints | None = None
    dataset: DatasetSource
    exports: list[str] | None = None
    fine_tune: Annotated[
        bool | None,
        Field(
            description="Train the base on the task first; default: only if it has no trained head for it."
        ),
    ] = None
    focus: str | None = "speed"
    group_sizes: GroupSizes | None = None
    learned: LearnedOptions | None = None
    metadata: Annotated[dict[str, str] | None, Field(description="Up to 16 pairs of your own.")] = None
    metric: Annotated[
        str | None, Field(description="What accuracy constraints bound; default: the task's first.")
    ] = None
    name: str | None = "job"
    recovery: Annotated[
        RecoveryOptions | str | None,
        Field(
            description="Distillation after approximation. A schedule's name alone stands for these options with that schedule. Retraining-free: `off`, or `reconstruct`, which solves the weights that are left anew by least squares."
        ),
    ] = None
    seed: int | None = 0
    significance: SignificanceOptions | None = None
    strategy: str | None = "axformer"
    target: Target | None = None
    task: str | None = "text-classification"


class NewApiKey(BaseModel):
    """
    What is asked for in a new key.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    expires_at: Annotated[
        AwareDatetime | None, Field(description="RFC 3339, UTC without a zone; never if left out.")
    ] = None
    name: Annotated[str, Field(description="What the key is for.")]
    scopes: Annotated[list[str], Field(description="What it may be used for.")]


class NewWebhook(BaseModel):
    """
    A webhook to be created.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    description: Annotated[str | None, Field(description="For yourself.")] = ""
    enabled: bool | None = True
    events: Annotated[list[str] | None, Field(description="What the receiver is told.")] = None
    url: Annotated[str, Field(description="Receives POSTs. Redirects are not followed.")]


class Plan(BaseModel):
    """
    What a job would do, found out without creating it.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    approximations: Annotated[
        list[str], Field(description="Those of the spec that the target's runtime can run smaller or faster.")
    ]
    max_minutes: Annotated[float, Field(description="The run ends with the best so far after this long.")]
    object: str
    spec: Annotated[JobSpec, Field(description="The spec with all defaults filled in.")]
    spec_digest: str
    stages: Annotated[list[str], Field(description="Stages that the run goes through, in order.")]
    strategy: str
    warnings: Annotated[list[str], Field(description="What will be ignored, and why.")]


class Problem(BaseModel):
    """
    The body of every answer that is not a success (RFC 9457).
    """

    model_config = ConfigDict(
        extra="allow",
    )
    code: Annotated[str, Field(description="Stable, for programs.")]
    detail: Annotated[str, Field(description="What is wrong, for people.")]
    errors: Annotated[
        list[FieldProblem] | None, Field(description="One entry for every field that is wrong.")
    ] = None
    quota: Annotated[QuotaState | None, Field(description="The numbers, where a quota is used up.")] = None
    remedy: Annotated[str | None, Field(description="What would be right.")] = None
    request_id: Annotated[str | None, Field(description="Name it when you ask for help.")] = None
    retryable: Annotated[bool, Field(description="The same request may succeed later.")]
    status: int
    title: str
    type: str


class Upload(BaseModel):
    """
    A model or data set that was sent to this service; name its id as `upload` in a spec.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    created_at: AwareDatetime
    expires_at: Annotated[
        AwareDatetime | None,
        Field(description="Kept until then, and longer while a job needs it or after one did."),
    ]
    filename: str
    id: str
    kind: str
    media_type: str
    object: str
    sha256: str
    size: Annotated[int, Field(description="Bytes.")]


class UploadList(BaseModel):
    """
    A page of uploads, the newest first.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    data: list[Upload]
    has_more: bool
    next_cursor: Annotated[str | None, Field(description="Give it as `cursor` for the next page.")]
    object: str


class Webhook(BaseModel):
    """
    An address of yours that is told of events, signed by Standard Webhooks.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    created_at: AwareDatetime
    description: str
    disabled_reason: Annotated[
        str | None,
        Field(
            description="`gone`: the receiver answered 410. `failing`: it took nothing for days. null: enabled, or disabled by you."
        ),
    ]
    enabled: bool
    events: list[str]
    failing_since: Annotated[AwareDatetime | None, Field(description="First failure after the last success.")]
    id: str
    object: str
    previous_secret_until: Annotated[
        AwareDatetime | None,
        Field(description="Messages are also signed with the secret before the last rotation until then."),
    ]
    updated_at: AwareDatetime
    url: str


class WebhookChange(BaseModel):
    """
    What is to become of a webhook; what is left out stays.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    description: str | None = None
    enabled: Annotated[
        bool | None,
        Field(description="false holds back what is to be sent; true sends it, and forgives failures."),
    ] = None
    events: list[str] | None = None
    url: str | None = None


class WebhookDelivery(BaseModel):
    """
    A message to a webhook, and what became of it.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    attempts: Annotated[list[DeliveryAttempt], Field(description="The last 20, the oldest first.")]
    created_at: AwareDatetime
    delivered_at: AwareDatetime | None
    id: Annotated[str, Field(description="The header `webhook-id`, the same at every attempt.")]
    job_id: str | None
    next_attempt_at: AwareDatetime | None
    object: str
    status: Annotated[
        str,
        Field(
            description="pending: to be sent. held: waits until the webhook is enabled. delivered: the receiver took it. exhausted: given up."
        ),
    ]
    type: Annotated[
        str,
        Field(description="What a webhook can be told; those of jobs are also types of the job's events."),
    ]
    webhook_id: str


class WebhookDeliveryList(BaseModel):
    """
    A page of deliveries, the newest first.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    data: list[WebhookDelivery]
    has_more: bool
    next_cursor: Annotated[str | None, Field(description="Give it as `cursor` for the next page.")]
    object: str


class WebhookList(BaseModel):
    """
    A page of webhooks, the newest first.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    data: list[Webhook]
    has_more: bool
    next_cursor: Annotated[str | None, Field(description="Give it as `cursor` for the next page.")]
    object: str


class Job(BaseModel):
    """
    A job: what was asked, how far it is, what came out.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    artifacts: list[Artifact]
    attempt: Annotated[int, Field(description="Runs so far; a worker that is lost gives a new one.")]
    cancel_requested: bool
    constraints_met: Annotated[bool | None, Field(description="Known once the job has succeeded.")]
    created_at: AwareDatetime
    done: Annotated[
        bool, Field(description="The status will not change any more. Wait for this, not for a status.")
    ]
    error: JobError | None
    expires_at: Annotated[
        AwareDatetime | None,
        Field(description="The artifacts are kept until then; null: until the job is deleted."),
    ]
    finished_at: AwareDatetime | None
    id: str
    links: JobLinks
    metadata: dict[str, str]
    name: str
    object: str
    progress: Progress | None
    result: Annotated[
        dict[str, Any] | None,
        Field(description="The certificate in short; the whole is the artifact `certificate.json`."),
    ]
    spec: Annotated[JobSpec, Field(description="The spec with all defaults filled in.")]
    spec_digest: str
    started_at: AwareDatetime | None
    status: str
    updated_at: AwareDatetime


class JobList(BaseModel):
    """
    A page of jobs, the newest first.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    data: list[Job]
    has_more: bool
    next_cursor: Annotated[str | None, Field(description="Give it as `cursor` for the next page.")]
    object: str
