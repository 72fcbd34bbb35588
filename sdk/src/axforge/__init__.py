"""Python client of an axforge server. See `Client`; the command is in `axforge.cli`."""

from axforge._version import __version__
from axforge.client import Client
from axforge.errors import (
    AxforgeError,
    ConnectionFailed,
    FieldError,
    IntegrityError,
    ProblemError,
    SpecError,
    UnsafeName,
    WaitTimeout,
)
from axforge.retries import RetryPolicy

__all__ = [
    "AxforgeError",
    "Client",
    "ConnectionFailed",
    "FieldError",
    "IntegrityError",
    "ProblemError",
    "RetryPolicy",
    "SpecError",
    "UnsafeName",
    "WaitTimeout",
    "__version__",
]
