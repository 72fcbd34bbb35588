"""Data files as Arrow tables: csv, jsonl and parquet, gzipped or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from worker.engine.errors import DatasetError
from worker.engine.prepare.disk import disk_room

Format = Literal["csv", "jsonl", "parquet"]
SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
_GZIP_MAGIC = b"\x1f\x8b"
# A row must fit into one block of the readers; texts of some megabytes do.
_BLOCK_BYTES = 16 << 20
_MOST_ROWS = 100_000_000


def format_of(name: str) -> Format | None:
    """The format that a file's name tells, or None."""
    return SUFFIXES.get(Path(name.lower().removesuffix(".gz")).suffix)


def read_tables(files: Sequence[Path], names: Sequence[str], form: Format | None) -> pa.Table:
    """All rows of `files` (parts of one split) as one table.

    `names` are what the files are called in messages, relative to the data set. `form` overrides the
    file names. Raises DatasetError where a file is damaged, or parts differ in their columns.
    """
    tables = [_read(path, name, form or format_of(name)) for path, name in zip(files, names, strict=True)]
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise DatasetError(
            f"the files {', '.join(names)} belong to one split but differ in their columns",
            remedy="give all files of a split the same columns and types",
            pointer="/dataset",
        ) from error


def write_table(table: pa.Table, path: Path) -> None:
    """As parquet, at once or not at all. Raises DiskFull."""
    part = path.with_suffix(".part")
    with disk_room(f"the prepared data ({path.name})"):
        pyarrow.parquet.write_table(table, part)
        part.replace(path)


def _read(path: Path, name: str, form: Format | None) -> pa.Table:
    if form is None:
        raise DatasetError(
            f"the format of {name} is not known by its name",
            remedy="name it *.csv, *.jsonl or *.parquet (csv and jsonl also .gz), or give dataset.format",
            pointer="/dataset/format",
        )
    try:
        with pa.OSFile(str(path)) as raw:
            zipped = raw.read(2) == _GZIP_MAGIC
        if form == "parquet":
            table = _parse_parquet(path)
        else:
            with pa.input_stream(str(path), compression="gzip" if zipped else None) as stream:
                table = _parse(stream, form, tab=".tsv" in name.lower())
        table.validate(full=True)  # what is no UTF-8 or points elsewhere must not be met later
        _ = table.column_names  # decoded here, where damage can be told
        return table
    except (pa.ArrowException, OSError, UnicodeDecodeError, ValueError) as error:
        if "Empty CSV" in str(error) or "Empty JSON" in str(error):
            return pa.table({})
        raise DatasetError(
            f"{name} cannot be read as {form}: {_without_paths(error, path)}",
            remedy="check that the file is whole, UTF-8, and of the format that its name says",
            pointer="/dataset",
        ) from error


def _parse_parquet(path: Path) -> pa.Table:
    rows = pyarrow.parquet.read_metadata(path).num_rows
    if rows > _MOST_ROWS:  # a few bytes may claim any number of empty rows
        raise ValueError(f"it has {rows} rows; at most {_MOST_ROWS} are read")
    return pyarrow.parquet.read_table(path, partitioning=None)


def _parse(stream: pa.NativeFile, form: Format, *, tab: bool) -> pa.Table:
    if form == "jsonl":
        return pyarrow.json.read_json(stream, pyarrow.json.ReadOptions(block_size=_BLOCK_BYTES))
    table = pyarrow.csv.read_csv(
        stream,
        pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES),
        pyarrow.csv.ParseOptions(delimiter="\t" if tab else ",", newlines_in_values=True),
        pyarrow.csv.ConvertOptions(
            null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    )
    # What is no UTF-8 the reader takes for bytes, without a word.
    for column in table.schema:
        if pa.types.is_binary(column.type):
            raise ValueError(f"column {column.name!r} is not UTF-8")
    return table


def _without_paths(error: Exception, path: Path) -> str:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return first.replace(str(path), path.name)[:200]
