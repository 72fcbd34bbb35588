"""One embedded server for all end-to-end tests, and inputs of seconds."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.demo import embedded_server
from tests.tiny_models import save_tiny_model

INTENTS = 4


@pytest.fixture(scope="package")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with embedded_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(scope="package")
def inputs(tmp_path_factory: pytest.TempPathFactory, banking77_path: Path) -> Path:
    """A folder with `model`, a tiny BERT, and `data`, four intents of BANKING77 (160 holdout rows)."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "data").mkdir()
    texts = []
    for split in ("train", "test"):
        rows = _few_intents(banking77_path / f"{split}.jsonl.gz")
        texts += [row["text"] for row in rows]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "data" / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    save_tiny_model(folder / "model", texts)
    return folder


def _few_intents(file: Path) -> list[dict[str, str]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    intents = sorted({row["label"] for row in rows})[:INTENTS]
    return [row for row in rows if row["label"] in intents]
