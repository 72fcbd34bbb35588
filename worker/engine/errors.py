"""What can go wrong in a run, as the user is told it: a stable code, a sentence, a remedy."""

from __future__ import annotations

import errno
import re


class EngineError(Exception):
    """A run cannot go on, and the user can do something about it.

    `message` says what is wrong, `remedy` what would be right, `pointer` (RFC 6901) names the
    field of the job spec that it comes from. None of them holds a secret or a path of the host.
    """

    code = "engine_error"

    def __init__(self, message: str, *, remedy: str, pointer: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.pointer = pointer


class ModelError(EngineError):
    """The base model cannot be used."""

    code = "model_unusable"


class UnsupportedArchitecture(ModelError):
    """The base model is of an architecture that the engine has no anatomy for."""

    code = "unsupported_architecture"


class UnsafeWeights(ModelError):
    """The base model comes as pickle or wants remote code."""

    code = "unsafe_weights"


class DatasetError(EngineError):
    """The data set cannot be used."""

    code = "dataset_unusable"


class ColumnError(DatasetError):
    """A column is missing, or more than one would do."""

    code = "dataset_columns"


class LabelError(DatasetError):
    """The labels do not make a task: one class only, or unseen in training."""

    code = "dataset_labels"


class SourceError(EngineError):
    """A hub repository, object or file cannot be reached."""

    code = "source_unavailable"


class DiskFull(EngineError):
    """The machine has no room for the run's files."""

    code = "disk_full"


# Of libraries that raise something else than an OSError with a number: safetensors, numpy.
_NO_ROOM = re.compile(r"No space left on device|Disk quota exceeded|\d+ requested and \d+ written")


def is_disk_full(error: BaseException | None) -> bool:
    """Whether the error, or one that led to it, says that there is no room left."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if _NO_ROOM.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


class Stopped(Exception):
    """The run was asked to stop (cancelled, or the worker shuts down); what is finished is kept."""
