"""Where a base model or a data set comes from: exactly one of hub, upload, uri, path."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from models.spec.base import Document


def _without_password(uri: str) -> str:
    authority = uri.partition("://")[2].partition("/")[0]
    if ":" in authority.rpartition("@")[0]:
        raise ValueError("a job's spec is shown to whoever sees the job; leave user and password out")
    return uri


HubName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$", max_length=200)
]
Revision = Annotated[str, StringConstraints(pattern=r"^[\w./-]{1,100}$")]
UploadId = Annotated[str, StringConstraints(pattern=r"^upl_[0-9a-f]{28}$")]
ObjectUri = Annotated[
    str,
    StringConstraints(pattern=r"^(store|s3|gs|az|abfs)://[^\s?#]+$", max_length=1000),
    AfterValidator(_without_password),
]
FilePath = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
ORIGINS = ("hub", "upload", "uri", "path")


class Source(Document):
    """One origin of files. `store://KEY` is an object of the service's own store."""

    hub: HubName | None = Field(None, description="Repository on the Hugging Face hub.")
    revision: Revision | None = Field(None, description="Commit, tag or branch; only with `hub`.")
    upload: UploadId | None = Field(None, description="Id answered by POST /v1/uploads.")
    uri: ObjectUri | None = Field(None, description="Object or prefix in an object store.")
    path: FilePath | None = Field(
        None, description="Folder or file of this machine (command line and embedded server only)."
    )

    @model_validator(mode="after")
    def _exactly_one_origin(self) -> Source:
        given = [name for name in ORIGINS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"give exactly one of {', '.join(ORIGINS)}; found {found}")
        if self.revision is not None and self.hub is None:
            raise ValueError("revision goes with hub only; remove it or give hub")
        return self


class ModelSource(Source):
    """A pre-trained or fine-tuned transformer: a folder with config.json and *.safetensors."""


ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Columns(Document):
    """Which column of the data plays which part; what is left out is guessed and shown."""

    text: ColumnName | None = Field(None, description="The text; of multiple choice, what to choose for.")
    text_pair: ColumnName | None = Field(None, description="The second text of a pair.")
    label: ColumnName | None = Field(
        None, description="The label, the score, the list of labels, or the list of the words' tags."
    )
    labels: tuple[ColumnName, ...] | None = Field(
        None, min_length=2, max_length=10_000, description="Columns of 0 and 1, one for each label."
    )
    tokens: ColumnName | None = Field(None, description="The list of words that tags are for.")
    question: ColumnName | None = Field(None, description="The question.")
    context: ColumnName | None = Field(None, description="The text that holds the answer.")
    answers: ColumnName | None = Field(None, description="Texts and starts of the answers, as in SQuAD.")
    choices: ColumnName | tuple[ColumnName, ...] | None = Field(
        None, description="The list of choices, or the columns of one choice each."
    )


class DatasetSource(Source):
    """Rows of the task's parts, as csv, jsonl or parquet (each may be gzipped), or from the hub.

    A folder, an archive or a hub data set is searched for files named after the splits
    (`train`, `validation` or `dev`, `test`); `train` and `holdout` name them otherwise.
    """

    config: str | None = Field(None, max_length=100, description="Hub configuration; only with `hub`.")
    format: Literal["csv", "jsonl", "parquet"] | None = Field(
        None, description="File format; default: by the file's name."
    )
    train: str | None = Field(None, max_length=200, description="File or hub split to train on.")
    holdout: str | None = Field(
        None, max_length=200, description="File or hub split that judges; read by the certificate only."
    )
    columns: Columns = Columns()
    max_train_rows: int | None = Field(
        None, ge=20, description="Train on a seeded, stratified sample of at most this many rows."
    )

    @model_validator(mode="after")
    def _config_needs_hub(self) -> DatasetSource:
        if self.config is not None and self.hub is None:
            raise ValueError("config goes with hub only; remove it or give hub")
        return self
