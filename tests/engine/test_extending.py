"""The example of docs/extending.md is all that a new architecture takes."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from tests.contract.test_engine_law import assert_same, masked_logits, onnx_logits
from tests.engine import export_models
from tests.engine.export_models import logits, padded_batch, random_recipe, tiny_classifier
from tests.tiny_models import wordpiece_tokenizer
from worker.engine import anatomy as registry
from worker.engine.anatomy import anatomy_of, ensure_supported
from worker.engine.anatomy.families import Family
from worker.engine.anatomy.slicing import is_native, sliced
from worker.engine.errors import UnsupportedArchitecture
from worker.engine.export.onnx import export_onnx
from worker.engine.export.safetensors import save_folder

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
EXAMPLE = re.compile(r"```python\n# worker/engine/anatomy/(\w+)\.py\n(.+?)```", re.DOTALL)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Family:
    """The page's family, in the registries that the page names."""
    found = EXAMPLE.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None
    name, source = found.groups()
    path = tmp_path / f"{name}.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    family: Family = getattr(module, name.upper())
    assert name not in registry.BASE_FAMILIES, "the page shows an architecture that is there already"
    for families in (registry.BASE_FAMILIES, registry.FAMILIES):
        monkeypatch.setitem(families, name, family)
    monkeypatch.setattr(registry, "ARCHITECTURES", (*registry.ARCHITECTURES, name))
    monkeypatch.setitem(export_models.OWN, name, {})
    return family


def test_the_example_is_short() -> None:
    found = EXAMPLE.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None
    assert len(found.group(2).splitlines()) < 100


def test_the_example_keeps_the_law_of_the_engine(example: Family, tmp_path: Path) -> None:
    (name,) = example.model_types
    dense, tokenizer = tiny_classifier(name), wordpiece_tokenizer(["a few words"], 100)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    ensure_supported(dense.config.to_dict())
    anatomy = anatomy_of(dense)
    for seed in range(6):
        recipe = random_recipe(seed, uniform=seed % 3 == 0)
        shape = anatomy.shape(recipe)
        small = sliced(dense, shape)
        batch = padded_batch(small)
        masked = masked_logits(dense, recipe, batch)
        assert_same(logits(small, batch), masked)
        save_folder(small, tokenizer, tmp_path / str(seed))
        reloaded = AutoModelForSequenceClassification.from_pretrained(
            tmp_path / str(seed), trust_remote_code=not is_native(anatomy, shape)
        )
        assert_same(logits(reloaded, batch), masked)
        export_onnx(small, tokenizer, tmp_path / f"{seed}.onnx")
        assert_same(onnx_logits(tmp_path / f"{seed}.onnx", batch), masked)
        assert small.num_parameters() == anatomy.parameters(shape)
        assert not torch.allclose(masked, logits(dense, batch), atol=1e-3)


def test_the_example_refuses_what_it_says(example: Family) -> None:
    with pytest.raises(UnsupportedArchitecture, match="task embeddings"):
        ensure_supported({"model_type": "ernie", "use_task_id": True})
