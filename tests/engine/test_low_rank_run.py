"""A whole run whose only means are low rank and quantization."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.spec import LowRankEmbeddings, LowRankFfn
from tests.engine.runs import Recorder, tiny_sources, tiny_spec
from tests.tiny_models import save_tiny_model
from worker.engine.anatomy import anatomy_of
from worker.engine.export.safetensors import load_folder
from worker.engine.pipeline import run
from worker.engine.run import Run

WIDTH, RANK = 64, 16  # a third of the width, rounded down to whole int4 blocks


@pytest.mark.slow
def test_table_and_ffn_lose_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AXFORGE_CACHE_DIR", str(tmp_path / "cache"))
    sources = tmp_path / "sources"
    sources.mkdir()
    texts = ["Where is my card?", "My card has not arrived yet, and I wait for it."]
    model = save_tiny_model(tmp_path / "wide", texts, hidden=WIDTH, channels=256)
    spec = tiny_spec(
        {**tiny_sources(sources), "base_model": {"path": str(model)}},
        approximations=["low_rank_embeddings", "low_rank_ffn", "quantize"],
        constraints={"accuracy": {"max_relative_drop": 0.9}},
        recovery="off",
    )
    recorder, workdir = Recorder(), tmp_path / "run"
    certificate = run(spec, workdir, recorder).certificate
    steps = certificate.recipe.steps
    assert [step for step in steps if step.approximation.startswith("low_rank")] == [
        LowRankEmbeddings(rank=RANK),
        *(LowRankFfn(layer=layer, rank=RANK) for layer in range(3)),
    ]
    assert certificate.loadable == "remote_code"
    shape = anatomy_of(load_folder(workdir / "export" / "optimized" / "safetensors")).full_shape()
    assert shape.embedding_rank == RANK
    assert all(layer.ffn_rank == RANK for layer in shape.layers)
    assert certificate.optimized.parameters < 0.75 * certificate.dense.parameters
    # A run that goes on in another process works out the same factors.
    again = Run(spec, workdir, Recorder())
    masked = again.anatomy.shape(certificate.recipe)
    assert masked == shape
