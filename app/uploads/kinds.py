"""Which files are taken as a model or a data set, by name and by their first bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.problems import InvalidUpload, UnsupportedMediaType
from models.upload import UploadKind

FIRST_BYTES = 512
PICKLE_ENDINGS = (
    ".pkl",
    ".pickle",
    ".pt",
    ".pth",
    ".bin",
    ".ckpt",
    ".joblib",
    ".dill",
    ".npy",
    ".npz",
    ".h5",
)
PICKLE_START = re.compile(rb"\x80[\x02-\x05]")
TAR_MAGIC_AT = 257


@dataclass(frozen=True)
class FileType:
    """A kind of file: its media type, and how it is known by its first bytes."""

    name: str
    media_type: str
    begins_well: Callable[[bytes], bool]


def _is_text(start: bytes) -> bool:
    return b"\0" not in start and not PICKLE_START.match(start)


def _is_json_lines(start: bytes) -> bool:
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    return _is_text(start) and text[:1] in (b"{", b"[")


ZIP = FileType("a zip archive", "application/zip", lambda start: start.startswith(b"PK\x03\x04"))
TAR = FileType(
    "a tar archive",
    "application/x-tar",
    lambda start: start[TAR_MAGIC_AT : TAR_MAGIC_AT + 5] == b"ustar",
)
GZIP = FileType("a gzip file", "application/gzip", lambda start: start.startswith(b"\x1f\x8b\x08"))
CSV = FileType("text with comma-separated values", "text/csv", _is_text)
JSON_LINES = FileType("text with one JSON object a line", "application/jsonl", _is_json_lines)
PARQUET = FileType(
    "a Parquet file", "application/vnd.apache.parquet", lambda start: start.startswith(b"PAR1")
)

ARCHIVES = {".zip": ZIP, ".tar": TAR, ".tar.gz": GZIP, ".tgz": GZIP}
ENDINGS: Mapping[UploadKind, Mapping[str, FileType]] = {
    UploadKind.MODEL: ARCHIVES,
    UploadKind.DATASET: {
        ".csv": CSV,
        ".csv.gz": GZIP,
        ".jsonl": JSON_LINES,
        ".jsonl.gz": GZIP,
        ".parquet": PARQUET,
        ".parquet.gz": GZIP,
        **ARCHIVES,
    },
}
WHAT_TO_SEND = {
    UploadKind.MODEL: "Send a zip or tar archive of a folder with config.json and *.safetensors "
    "(`save_pretrained(folder)` writes one).",
    UploadKind.DATASET: "Send csv, jsonl or parquet, plain or as .gz, or a zip or tar archive of such files.",
}


def type_of(kind: UploadKind, filename: str) -> FileType:
    """The type that the name announces.

    Raises:
        UnsupportedMediaType: files of that name are not taken; pickles never are, they can run code.
    """
    name = filename.lower()
    for ending, known in ENDINGS[kind].items():
        if name.endswith(ending):
            return known
    if name.removesuffix(".gz").endswith(PICKLE_ENDINGS):
        raise UnsupportedMediaType(
            f"{filename!r} looks like a pickle or binary dump; such files can run code and are never read.",
            remedy=WHAT_TO_SEND[kind],
        )
    taken = ", ".join(ENDINGS[kind])
    raise UnsupportedMediaType(
        f"A {kind.value} in a file named {filename!r} is not taken; its name should end in one of {taken}.",
        remedy=WHAT_TO_SEND[kind],
    )


def check_start(kind: UploadKind, announced: FileType, start: bytes) -> None:
    """Compare the first bytes with what the name announces.

    Raises:
        InvalidUpload: it is empty, or something else.
    """
    if not start:
        raise InvalidUpload("The file is empty.", remedy=WHAT_TO_SEND[kind])
    if PICKLE_START.match(start):
        raise InvalidUpload(
            "The file is a pickle; such files can run code and are never read.", remedy=WHAT_TO_SEND[kind]
        )
    if not announced.begins_well(start):
        raise InvalidUpload(
            f"By its name the file is {announced.name}, by its first bytes it is not.",
            remedy=WHAT_TO_SEND[kind],
        )
