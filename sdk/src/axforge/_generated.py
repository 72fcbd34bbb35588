"""Documents of the API. Do not edit: generate_types.py makes this file from docs/openapi.json."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field


class AccuracyConstraint(BaseModel):
    """
    Bounds on the task metric, against the dense model measured in the same run.

    Relative drop is (dense - optimized) / |dense|; positive means worse.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    max_relative_drop: float | None = None
    max_absolute_drop: float | None = None
    min: Annotated[float | None, Field(description="Lowest metric value allowed.")] = None
    min_gain: Annotated[float | None, Field(description="Optimized minus dense, at least.")] = None
    confidence: Annotated[
        str | float | None,
        Field(description="`point` judges the measured value; 0.95 judges that end of the paired interval."),
    ] = "point"


class ApproximationInfo(BaseModel):
    """
    Something that can be done to a model.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    name: str
    description: str
    element: Annotated[str, Field(description="What it is done to.")]
    gains: Annotated[list[str], Field(description="What it can improve: speed, size, accuracy.")]
    runtimes: Annotated[list[str], Field(description="Where that takes effect.")]
    json_schema: Annotated[dict[str, Any], Field(description="Of its step in a recipe.")]


class Artifact(BaseModel):
    """
    A file that a job delivered.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    id: str
    object: str
    name: Annotated[str, Field(description="Path within the job's delivery.")]
    size: Annotated[int, Field(description="Bytes.")]
    sha256: str
    media_type: str
    created_at: AwareDatetime
    url: Annotated[str, Field(description="Path to download it from.")]


class ArtifactList(BaseModel):
    """
    All files of a job, by name.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    object: str
    data: list[Artifact]
    has_more: bool


class Budget(BaseModel):
    """
    What a job may spend. The search ends with the best so far when one is used up.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    max_minutes: float | None = 60.0
    max_candidates: int | None = 200


class Candidate(BaseModel):
    """
    A recipe that the job tried, with what was measured.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    object: str
    job_id: str
    number: int
    stage: str
    recipe: dict[str, Any]
    measurements: dict[str, Any]
    accepted: bool
    reason: Annotated[str, Field(description="Why it was accepted or refused.")]
    created_at: AwareDatetime


class CandidateList(BaseModel):
    """
    A page of candidates, by number.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    object: str
    data: list[Candidate]
    has_more: bool


class Columns(BaseModel):
    """
    Which column of the data plays which part; what is left out is guessed and shown.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    text: str | None = None
    text_pair: str | None = None
    label: str | None = None


class DatasetSource(BaseModel):
    """
    Rows with a text and a label, as csv, jsonl or parquet (each may be gzipped), or from the hub.

    A folder, an archive or a hub data set is searched for files named after the splits
    (`train`, `validation` or `dev`, `test`); `train` and `holdout` name them otherwise.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    hub: Annotated[str | None, Field(description="Repository on the Hugging Face hub.")] = None
    revision: Annotated[str | None, Field(description="Commit, tag or branch; only with `hub`.")] = None
    upload: Annotated[str | None, Field(description="Id answered by POST /v1/uploads.")] = None
    uri: Annotated[str | None, Field(description="Object or prefix in an object store.")] = None
    path: Annotated[
        str | None,
        Field(description="Folder or file of this machine (command line and embedded server only)."),
    ] = None
    config: Annotated[str | None, Field(description="Hub configuration; only with `hub`.")] = None
    format: Annotated[str | None, Field(description="File format; default: by the file's name.")] = None
    train: Annotated[str | None, Field(description="File or hub split to train on.")] = None
    holdout: Annotated[
        str | None, Field(description="File or hub split that judges; read by the certificate only.")
    ] = None
    columns: Columns | None = None
    max_train_rows: Annotated[
        int | None, Field(description="Train on a seeded, stratified sample of at most this many rows.")
    ] = None


class Event(BaseModel):
    """
    Something that happened to a job.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    id: Annotated[int, Field(description="Rises with time; `after` and `Last-Event-ID` resume behind it.")]
    object: str
    job_id: str
    attempt: int
    type: str
    level: str
    message: str
    data: dict[str, Any]
    created_at: AwareDatetime


class EventList(BaseModel):
    """
    A page of events, the oldest first.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    object: str
    data: list[Event]
    has_more: bool


class FieldProblem(BaseModel):
    """
    One field that is wrong.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    pointer: Annotated[str | None, Field(description="RFC 6901 pointer into the body.")] = None
    parameter: Annotated[str | None, Field(description="Query, path or header parameter.")] = None
    detail: str
    remedy: str | None = None


class JobError(BaseModel):
    """
    Why a job failed, shaped like a problem.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    code: str
    detail: str
    remedy: str | None
    pointer: Annotated[
        str | None, Field(description="RFC 6901 pointer into the spec, if a field is to blame.")
    ]
    retryable: bool


class JobLinks(BaseModel):
    """
    Paths below the service's address.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    self: str
    events: str
    candidates: str
    artifacts: str
    cancel: str


class Limits(BaseModel):
    """
    The most that this service takes.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    spec_max_bytes: int
    upload_max_bytes: int
    max_wait_seconds: float
    max_minutes: float
    max_candidates: int


class ModelSource(BaseModel):
    """
    A pre-trained or fine-tuned transformer: a folder with config.json and *.safetensors.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    hub: Annotated[str | None, Field(description="Repository on the Hugging Face hub.")] = None
    revision: Annotated[str | None, Field(description="Commit, tag or branch; only with `hub`.")] = None
    upload: Annotated[str | None, Field(description="Id answered by POST /v1/uploads.")] = None
    uri: Annotated[str | None, Field(description="Object or prefix in an object store.")] = None
    path: Annotated[
        str | None,
        Field(description="Folder or file of this machine (command line and embedded server only)."),
    ] = None


class Plan(BaseModel):
    """
    What a job would do, found out without creating it.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    object: str
    spec: Annotated[dict[str, Any], Field(description="The spec with all defaults filled in.")]
    spec_digest: str
    stages: Annotated[list[str], Field(description="Stages that the run goes through, in order.")]
    strategy: str
    approximations: Annotated[
        list[str], Field(description="Those of the spec that the target's runtime can run smaller or faster.")
    ]
    max_minutes: Annotated[float, Field(description="The run ends with the best so far after this long.")]
    warnings: Annotated[list[str], Field(description="What will be ignored, and why.")]


class ProblemDocument(BaseModel):
    """
    The body of every answer that is not a success (RFC 9457).
    """

    model_config = ConfigDict(
        extra="allow",
    )
    type: str
    title: str
    status: int
    code: Annotated[str, Field(description="Stable, for programs.")]
    detail: Annotated[str, Field(description="What is wrong, for people.")]
    remedy: Annotated[str | None, Field(description="What would be right.")] = None
    errors: Annotated[
        list[FieldProblem] | None, Field(description="One entry for every field that is wrong.")
    ] = None
    retryable: Annotated[bool, Field(description="The same request may succeed later.")]
    request_id: Annotated[str | None, Field(description="Name it when you ask for help.")] = None


class Progress(BaseModel):
    """
    How far a run is.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    stage: Annotated[
        str | None, Field(description="prepare, baseline, analyse, search, recover, export or certify.")
    ]
    step: Annotated[int | None, Field(description="Steps of the stage that are done.")]
    total: Annotated[int | None, Field(description="Steps of the stage, where known.")]
    fraction: Annotated[float | None, Field(description="Of the stage, from 0 to 1, where known.")]
    eta_seconds: Annotated[float | None, Field(description="Until the stage ends, where known.")]
    message: str


class SizeConstraint(BaseModel):
    """
    Bounds on the bytes of the exported model file.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    min_reduction: float | None = None
    max_bytes: int | None = None


class SpeedConstraint(BaseModel):
    """
    Bounds on time per call at the target's batch size and lengths.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    min_speedup: float | None = None
    max_latency_ms: float | None = None
    percentile: Annotated[str | None, Field(description="Which latency max_latency_ms bounds.")] = "p50"
    min_throughput: Annotated[float | None, Field(description="Examples per second.")] = None


class StrategyInfo(BaseModel):
    """
    A way to search for the best recipe.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    name: str
    description: str
    focuses: list[str]


class Target(BaseModel):
    """
    Where the model will run, and so where it is measured.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    device: str | None = "cpu"
    runtime: str | None = "onnxruntime"
    batch_size: int | None = 1
    sequence_length: Annotated[
        str | int | None,
        Field(description="Tokens per example; `data` means the lengths that the data set has."),
    ] = "data"
    threads: Annotated[int | None, Field(description="Default: all processors of the worker.")] = None


class TrainingOptions(BaseModel):
    """
    Fine-tuning of the base model, and recovery of the approximated one.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    epochs: Annotated[int | None, Field(description="At most; default by data size.")] = None
    learning_rate: float | None = None
    batch_size: int | None = 32
    max_length: Annotated[int | None, Field(description="Longer examples are cut, in tokens.")] = 128


class UploadKinds(BaseModel):
    """
    File name endings that are taken.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    model: list[str]
    dataset: list[str]


class Capabilities(BaseModel):
    """
    What can be asked of this service.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    object: str
    version: str
    tasks: list[str]
    metrics: list[str]
    architectures: Annotated[list[str], Field(description="`model_type`s of base models.")]
    approximations: list[ApproximationInfo]
    strategies: list[StrategyInfo]
    stages: list[str]
    exports: list[str]
    runtimes: list[str]
    devices: list[str]
    sources: Annotated[list[str], Field(description="Where models and data may come from.")]
    uploads: UploadKinds
    limits: Limits
    job_spec_schema: Annotated[dict[str, Any], Field(description="JSON Schema (2020-12) of POST /v1/jobs.")]


class Constraints(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    accuracy: AccuracyConstraint | None = None
    size: SizeConstraint | None = None
    speed: SpeedConstraint | None = None


class Job(BaseModel):
    """
    A job: what was asked, how far it is, what came out.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    id: str
    object: str
    name: str
    status: str
    done: Annotated[
        bool, Field(description="The status will not change any more. Wait for this, not for a status.")
    ]
    constraints_met: Annotated[bool | None, Field(description="Known once the job has succeeded.")]
    cancel_requested: bool
    progress: Progress | None
    attempt: Annotated[int, Field(description="Runs so far; a worker that is lost gives a new one.")]
    error: JobError | None
    result: Annotated[
        dict[str, Any] | None, Field(description="What the run delivered, with its certificate.")
    ]
    artifacts: list[Artifact]
    metadata: dict[str, str]
    spec: Annotated[dict[str, Any], Field(description="The spec with all defaults filled in.")]
    spec_digest: str
    created_at: AwareDatetime
    updated_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    expires_at: AwareDatetime | None
    links: JobLinks


class JobList(BaseModel):
    """
    A page of jobs, the newest first.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    object: str
    data: list[Job]
    has_more: bool
    next_cursor: Annotated[str | None, Field(description="Give it as `cursor` for the next page.")]


class JobSpec(BaseModel):
    """
    A job as the user writes it (YAML or JSON).
    """

    model_config = ConfigDict(
        extra="allow",
    )
    name: str | None = "job"
    base_model: ModelSource
    task: str | None = "text-classification"
    dataset: DatasetSource
    metric: str | None = "accuracy"
    constraints: Constraints | None = None
    focus: str | None = "speed"
    target: Target | None = None
    strategy: str | None = "axformer"
    approximations: Annotated[
        list[str] | None, Field(description="What may be done to the model; default: all.")
    ] = None
    fine_tune: Annotated[
        bool | None,
        Field(
            description="Train the base on the task first; default: only if it has no trained head for it."
        ),
    ] = None
    baseline: TrainingOptions | None = None
    recovery: Annotated[
        TrainingOptions | str | None,
        Field(description="Distillation after approximation; `off` for retraining-free."),
    ] = None
    budget: Budget | None = None
    exports: list[str] | None = None
    metadata: Annotated[dict[str, str] | None, Field(description="Up to 16 pairs of your own.")] = None
    seed: int | None = 0


class Upload(BaseModel):
    """
    A model or data set that was sent to this service; name its id as `upload` in a spec.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    id: str
    object: str
    kind: str
    filename: str
    size: Annotated[int, Field(description="Bytes.")]
    sha256: str
    media_type: str
    created_at: AwareDatetime
    expires_at: AwareDatetime | None


class UploadList(BaseModel):
    """
    A page of uploads, the newest first.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    object: str
    data: list[Upload]
    has_more: bool
    next_cursor: Annotated[str | None, Field(description="Give it as `cursor` for the next page.")]
