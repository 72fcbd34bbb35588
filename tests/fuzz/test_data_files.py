"""Whatever a data file holds, it is prepared or refused with a typed error."""

from __future__ import annotations

import gzip
import io
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.spec import DatasetSource
from tests.fuzz.conftest import TRIED, bounded
from tests.fuzz.mutations import ODD_VALUES, spoiled_bytes
from worker.engine.errors import EngineError
from worker.engine.prepare import prepare_dataset
from worker.engine.tasks import TASKS

TEXTS = [f"question {number} about {'cards' if number % 2 else 'loans'}" for number in range(60)]
LABELS = ["card" if number % 2 else "loan" for number in range(60)]


def csv() -> bytes:
    rows = "".join(f'"{text}",{label}\n' for text, label in zip(TEXTS, LABELS, strict=True))
    return f"text,label\n{rows}".encode()


def jsonl() -> bytes:
    rows = ({"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True))
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def parquet(**options: object) -> bytes:
    metadata = {b"huggingface": json.dumps({"info": {"features": {}}}).encode()}
    table = pa.table({"text": TEXTS, "label": [label == "card" for label in LABELS], "id": list(range(60))})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), buffer, **options)
    return buffer.getvalue()


FILES = {
    "data.csv": csv(),
    "data.jsonl": jsonl(),
    "data.parquet": parquet(),
    "plain.parquet": parquet(compression="none", use_dictionary=False),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def prepare(folder: Path, name: str, content: bytes) -> None:
    TRIED["data files"] += 1
    path, target = folder / name, folder / "prepared"
    shutil.rmtree(target, ignore_errors=True)
    path.write_bytes(content)
    refused = None
    try:
        task = TASKS["text-classification"]
        prepared = prepare_dataset(DatasetSource(path=str(path)), target, seed=0, task=task)
    except EngineError as error:
        refused = error
    if refused is None:
        assert len(prepared.labels) >= 2
    else:
        assert str(folder) not in str(refused)
        assert refused.remedy
        json.dumps(refused.message, ensure_ascii=False).encode()  # it can be stored and shown


@pytest.mark.parametrize("name", FILES)
def test_sound_files_are_prepared(folder: Path, name: str) -> None:
    target = folder / "sound"
    shutil.rmtree(target, ignore_errors=True)
    (folder / name).write_bytes(FILES[name])
    source = DatasetSource(path=str(folder / name))
    assert prepare_dataset(source, target, seed=0, task=TASKS["text-classification"]).rows["train"] > 20


@bounded(150)
@given(data=st.data())
def test_spoiled_files(folder: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(FILES)))
    prepare(folder, name, data.draw(spoiled_bytes(FILES[name])))


@bounded(40)
@given(content=st.one_of(spoiled_bytes(csv()), spoiled_bytes(jsonl())), inside=st.booleans())
def test_spoiled_gzip(folder: Path, content: bytes, inside: bool) -> None:
    zipped = gzip.compress(content, 1) if inside else gzip.compress(csv(), 1)[:-8] + content[:8]
    prepare(folder, "data.csv.gz", zipped)


@bounded(100)
@given(
    rows=st.lists(
        st.fixed_dictionaries({"text": ODD_VALUES, "label": ODD_VALUES}, optional={"extra": ODD_VALUES}),
        min_size=1,
        max_size=5,
    )
)
def test_odd_rows(folder: Path, rows: list[dict[str, object]]) -> None:
    """Values of every type where texts and labels are expected, among sound rows and alone."""
    text = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    prepare(folder, "data.jsonl", text * 30)
    prepare(folder, "data.jsonl", jsonl() + text)
