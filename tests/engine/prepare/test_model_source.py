from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.spec import ModelSource
from models.spec.capabilities import ARCHITECTURES
from tests.engine.prepare.hub_server import FakeHub
from worker.engine.errors import EngineError, ModelError, SourceError, UnsafeWeights, UnsupportedArchitecture
from worker.engine.prepare import check_model_folder, resolve_model


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def refusal(folder: Path, kind: type[EngineError]) -> EngineError:
    """The error of a bad folder; it must not tell where the folder lies."""
    with pytest.raises(kind) as raised:
        check_model_folder(folder)
    error = raised.value
    assert type(error) is kind
    assert error.pointer == "/base_model"
    assert error.remedy
    assert str(folder) not in error.message + error.remedy
    return error


def shard(folder: Path) -> dict[str, Any]:
    """Turn model.safetensors into two shards and answer the index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, own in parts.items():
        save_file({name: tensors[name] for name in own}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, own in parts.items() for name in own}}
    write_index(folder, index)
    return index


def write_index(folder: Path, index: dict[str, Any]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_good_folder_is_taken_as_it_is(tiny_model: Path, tmp_path: Path) -> None:
    assert resolve_model(ModelSource(path=str(tiny_model)), tmp_path) == tiny_model


def test_a_folder_in_shards_is_taken(model_copy: Path) -> None:
    shard(model_copy)
    check_model_folder(model_copy)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as raised:
        resolve_model(ModelSource(path=str(tmp_path / "absent")), tmp_path)
    assert raised.value.pointer == "/base_model/path"
    assert str(tmp_path) not in raised.value.message


@pytest.mark.parametrize("source", [{"upload": "upl_" + "a" * 28}, {"uri": "s3://bucket/model"}])
def test_what_only_the_service_can_fetch(source: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="fetched by the service"):
        resolve_model(ModelSource(**source), tmp_path)


def test_not_a_transformer(model_copy: Path) -> None:
    (model_copy / "config.json").unlink()
    assert "not a transformer" in refusal(model_copy, ModelError).message
    (model_copy / "config.json").write_text("{}")
    assert "names no model_type" in refusal(model_copy, ModelError).message


def test_config_that_is_not_json(model_copy: Path) -> None:
    (model_copy / "config.json").write_text("{oops")
    assert "not JSON" in refusal(model_copy, ModelError).message


def test_unknown_architecture(model_copy: Path) -> None:
    edit_config(model_copy, model_type="t5")
    error = refusal(model_copy, UnsupportedArchitecture)
    assert "'t5'" in error.message
    assert "distilbert" in error.remedy


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "weights.pkl"])
def test_pickled_weights_are_never_opened(model_copy: Path, name: str, tmp_path: Path) -> None:
    (model_copy / "model.safetensors").unlink()
    torch.save({"w": torch.zeros(1)}, model_copy / name)
    assert "pickle" in refusal(model_copy, UnsafeWeights).message


def test_remote_code_in_the_config(model_copy: Path) -> None:
    edit_config(model_copy, auto_map={"AutoModel": "evil.Model"})
    assert "never executed" in refusal(model_copy, UnsafeWeights).message


def test_remote_code_in_the_tokenizer(model_copy: Path) -> None:
    file = model_copy / "tokenizer_config.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "auto_map": {"AutoTokenizer": ["evil.T", None]}})
    )
    refusal(model_copy, UnsafeWeights)


@pytest.mark.parametrize("keep", [0, 4, 100, -50])
def test_weights_cut_short(model_copy: Path, keep: int) -> None:
    weights = model_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    assert "damaged" in refusal(model_copy, ModelError).message


def test_weights_overwritten(model_copy: Path) -> None:
    (model_copy / "model.safetensors").write_bytes(b"\x00" * 4096)
    refusal(model_copy, ModelError)


def test_a_shard_is_missing(model_copy: Path) -> None:
    shard(model_copy)
    (model_copy / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002" in refusal(model_copy, ModelError).message


def test_a_shard_lacks_a_tensor_of_the_index(model_copy: Path) -> None:
    index = shard(model_copy)
    index["weight_map"]["absent.weight"] = "model-00001-of-00002.safetensors"
    write_index(model_copy, index)
    assert "absent.weight" in refusal(model_copy, ModelError).message


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/model.safetensors", "sub/x.safetensors", "x.bin"]
)
def test_an_index_that_leaves_the_folder(model_copy: Path, name: str) -> None:
    index = shard(model_copy)
    index["weight_map"]["embeddings.word_embeddings.weight"] = name
    write_index(model_copy, index)
    refusal(model_copy, UnsafeWeights)


def test_no_tokenizer(model_copy: Path) -> None:
    (model_copy / "tokenizer.json").unlink()
    assert "no tokenizer" in refusal(model_copy, ModelError).message


def test_an_adapter_alone(model_copy: Path) -> None:
    (model_copy / "model.safetensors").rename(model_copy / "adapter_model.safetensors")
    assert "adapter" in refusal(model_copy, ModelError).message


@pytest.mark.usefixtures("online")
class TestHub:
    source = ModelSource(hub="owner/tiny")

    def test_model_is_fetched_and_pinned(self, tiny_model: Path, tmp_path: Path) -> None:
        with FakeHub({"models/owner/tiny": tiny_model}).running() as hub:
            found = resolve_model(self.source, tmp_path, hub_endpoint=hub.endpoint)
            assert (found / "model.safetensors").read_bytes() == (
                tiny_model / "model.safetensors"
            ).read_bytes()
        hub.commit = "2" * 40
        with hub.running():
            assert resolve_model(self.source, tmp_path, hub_endpoint=hub.endpoint) == found

    def test_a_resumed_run_needs_no_hub(self, tiny_model: Path, tmp_path: Path) -> None:
        with FakeHub({"models/owner/tiny": tiny_model}).running() as hub:
            found = resolve_model(self.source, tmp_path, hub_endpoint=hub.endpoint)
        assert resolve_model(self.source, tmp_path, hub_endpoint=hub.endpoint) == found

    def test_only_what_is_needed_is_fetched(self, model_copy: Path, tmp_path: Path) -> None:
        (model_copy / "pytorch_model.bin").write_bytes(b"pickle")
        (model_copy / "modeling_evil.py").write_text("raise SystemExit")
        (model_copy / "README.md").write_text("hello")
        with FakeHub({"models/owner/tiny": model_copy}).running() as hub:
            resolve_model(self.source, tmp_path, hub_endpoint=hub.endpoint)
        assert hub.downloads() == {
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        }

    @pytest.mark.parametrize("config", [{"model_type": "t5"}, {"auto_map": {"AutoModel": "x.Y"}}])
    def test_a_bad_config_costs_no_weights(
        self, model_copy: Path, tmp_path: Path, config: dict[str, Any]
    ) -> None:
        edit_config(model_copy, **config)
        with FakeHub({"models/owner/tiny": model_copy}).running() as hub, pytest.raises(ModelError):
            resolve_model(self.source, tmp_path, hub_endpoint=hub.endpoint)
        assert hub.downloads() == {"config.json"}

    @pytest.mark.parametrize("own", [{"model_type": "t5"}, {"model_type": "albert", "inner_group_num": 2}])
    def test_an_unsupported_architecture_costs_its_config_and_is_told_all_that_are_supported(
        self, model_copy: Path, tmp_path: Path, own: dict[str, Any]
    ) -> None:
        edit_config(model_copy, **own)
        with (
            FakeHub({"models/owner/tiny": model_copy}).running() as hub,
            pytest.raises(UnsupportedArchitecture) as raised,
        ):
            resolve_model(self.source, tmp_path, hub_endpoint=hub.endpoint)
        assert hub.downloads() == {"config.json"}
        told = raised.value.remedy.rpartition(": ")[2].split(", ")
        assert told == list(ARCHITECTURES)
        assert raised.value.pointer == "/base_model"

    def test_an_architecture_that_does_not_serve_the_task_costs_its_config(
        self, model_copy: Path, tmp_path: Path
    ) -> None:
        with (
            FakeHub({"models/owner/tiny": model_copy}).running() as hub,
            pytest.raises(UnsupportedArchitecture) as raised,
        ):
            resolve_model(self.source, tmp_path, head="causal", hub_endpoint=hub.endpoint)
        assert hub.downloads() == {"config.json"}
        assert raised.value.pointer == "/task"

    def test_pickled_weights_are_not_fetched(self, model_copy: Path, tmp_path: Path) -> None:
        (model_copy / "model.safetensors").rename(model_copy / "pytorch_model.bin")
        with FakeHub({"models/owner/tiny": model_copy}).running() as hub, pytest.raises(UnsafeWeights):
            resolve_model(self.source, tmp_path, hub_endpoint=hub.endpoint)
        assert hub.downloads() == {"config.json"}

    def test_no_config(self, model_copy: Path, tmp_path: Path) -> None:
        (model_copy / "config.json").unlink()
        with FakeHub({"models/owner/tiny": model_copy}).running() as hub, pytest.raises(ModelError) as raised:
            resolve_model(self.source, tmp_path, hub_endpoint=hub.endpoint)
        assert "not a transformer" in raised.value.message

    def test_no_such_repository(self, tmp_path: Path) -> None:
        with FakeHub({}).running() as hub, pytest.raises(SourceError) as raised:
            resolve_model(self.source, tmp_path, hub_endpoint=hub.endpoint)
        assert raised.value.pointer == "/base_model/hub"
        assert "127.0.0.1" not in raised.value.message

    def test_no_such_revision(self, tiny_model: Path, tmp_path: Path) -> None:
        source = ModelSource(hub="owner/tiny", revision="v9")
        with (
            FakeHub({"models/owner/tiny": tiny_model}).running() as hub,
            pytest.raises(SourceError) as raised,
        ):
            resolve_model(source, tmp_path, hub_endpoint=hub.endpoint)
        assert raised.value.pointer == "/base_model/revision"
        assert "'v9'" in raised.value.message

    def test_gated(self, tiny_model: Path, tmp_path: Path) -> None:
        hub = FakeHub({"models/owner/tiny": tiny_model}, gated={"models/owner/tiny"})
        with hub.running(), pytest.raises(SourceError) as raised:
            resolve_model(self.source, tmp_path, hub_endpoint=hub.endpoint)
        assert "HF_TOKEN" in raised.value.remedy

    def test_nobody_answers(self, tmp_path: Path) -> None:
        with FakeHub({}).running() as hub:
            pass
        with pytest.raises(SourceError, match="cannot be reached"):
            resolve_model(self.source, tmp_path, hub_endpoint=hub.endpoint)


def test_hub_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SourceError, match="cannot be reached"):
        resolve_model(ModelSource(hub="owner/tiny"), tmp_path)


def test_the_real_model_is_taken(minilm_path: Path) -> None:
    check_model_folder(minilm_path)
