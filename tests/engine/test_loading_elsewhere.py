"""Exported folders work where axforge is not: in clean virtual environments.

The ONNX folder runs with onnxruntime and tokenizers installed by pip and nothing else. The
safetensors folders run with torch and transformers of this environment (installing them anew would
download a gigabyte): a .pth file names a folder of links to its packages, from which the packages of
axforge and everything that only axforge needs are left out. For programs of torch.export transformers is left
out as well. Language models write a text on in both, with their caches of keys and values.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from models.spec import PruneHeads, PruneLayers, PruneWeightGroups, Quantize, Recipe
from tests.engine.decoder_models import tiny_decoder
from tests.engine.export_models import LAYERS, VOCABULARY, tiny_classifier
from tests.tiny_models import byte_pair_tokenizer, wordpiece_tokenizer
from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.slicing import sliced
from worker.engine.export.onnx import save_onnx_folder
from worker.engine.export.safetensors import save_folder
from worker.engine.export.torch_program import save_program_folder

TEXTS = ["where is my card", "why", "please tell me how to top up the account that I opened"]
NATIVE = Recipe(
    steps=(
        PruneLayers(layers=(1,)),
        *(PruneWeightGroups(layer=layer, channels=tuple(range(20))) for layer in range(LAYERS)),
    )
)
MIXED = NATIVE.then(PruneHeads(layer=0, heads=(1, 2)))
PROMPT = "please tell me how"
NEW_TOKENS = 6
OURS = ("app", "worker", "models", "axforge")

ABSENT = f"""
import importlib.util
found = [name for name in {OURS!r} if importlib.util.find_spec(name)]
assert not found, found
"""

RUN_ONNX = (
    ABSENT
    + """
assert not importlib.util.find_spec("torch")
assert not importlib.util.find_spec("transformers")
import json, sys
from pathlib import Path
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder, texts = Path(sys.argv[1]), json.loads(sys.argv[2])
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
about = json.loads((folder / "labels.json").read_text())
answers = []
for text in texts:
    encoded = tokenizer.encode(text)
    values = {
        "input_ids": encoded.ids,
        "attention_mask": encoded.attention_mask,
        "token_type_ids": encoded.type_ids,
    }
    inputs = {name: np.array([values[name]], dtype=np.int64) for name in about["inputs"]}
    answers.append(session.run(["logits"], inputs)[0][0].tolist())
print(json.dumps({"logits": answers, "labels": about["labels"]}))
"""
)

GENERATE_ONNX = (
    ABSENT
    + """
assert not importlib.util.find_spec("torch")
assert not importlib.util.find_spec("transformers")
import json, sys
from pathlib import Path
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder, text, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
names = [output.name for output in session.get_outputs()]
kept = [given for given in session.get_inputs() if given.name.startswith("past_key_values.")]
cache = {past.name: np.zeros((1, past.shape[1], 0, past.shape[3]), dtype=np.float32) for past in kept}
assert cache
read, logits = 0, []
for _ in range(count):
    inputs = {
        "input_ids": np.array([tokens[read:]], dtype=np.int64),
        "attention_mask": np.ones((1, len(tokens)), dtype=np.int64),
    }
    answers = dict(zip(names, session.run(names, {**inputs, **cache})))
    cache = {name: answers[name.replace("past_key_values", "present")] for name in cache}
    read = len(tokens)
    logits.append(answers["logits"][0, -1].tolist())
    tokens.append(int(np.argmax(logits[-1])))
print(json.dumps({"tokens": tokens, "logits": logits}))
"""
)

GENERATE_TORCH = (
    ABSENT
    + """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, text, count, options = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
model = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
encoded = AutoTokenizer.from_pretrained(folder, **options)(text, return_tensors="pt")
steps = []
model.register_forward_pre_hook(
    lambda module, args, kwargs: steps.append(kwargs["input_ids"].shape[1]), with_kwargs=True
)
made = model.generate(
    **encoded, max_new_tokens=count, do_sample=False, output_logits=True, return_dict_in_generate=True
)
print(json.dumps({
    "tokens": made.sequences[0].tolist(),
    "logits": [step[0].tolist() for step in made.logits],
    "steps": steps,
    "class": type(model).__name__,
}))
"""
)

RUN_TORCH = (
    ABSENT
    + """
import json, sys
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder, texts, options = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
model = AutoModelForSequenceClassification.from_pretrained(folder, **options).eval()
encoded = AutoTokenizer.from_pretrained(folder, **options)(texts, padding=True, return_tensors="pt")
with torch.no_grad():
    logits = model(**encoded).logits
print(json.dumps({"logits": logits.tolist(), "class": type(model).__name__}))
"""
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    tokenizer = wordpiece_tokenizer(TEXTS, 100)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


@pytest.fixture(scope="module")
def onnx_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx-only")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    wanted = [f"{name}=={metadata.version(name)}" for name in ("onnxruntime", "tokenizers", "numpy")]
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
    installed = subprocess.run(command, capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr
    return python


RUN_PROGRAM = (
    ABSENT
    + """
assert not importlib.util.find_spec("transformers")
import json, sys
from pathlib import Path
import torch
from tokenizers import Tokenizer

folder, texts = Path(sys.argv[1]), json.loads(sys.argv[2])
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
model = torch.export.load(folder / "model.pt2").module()
about = json.loads((folder / "labels.json").read_text())
tokenizer.enable_padding()
logits = []
for together in ([text] for text in texts), [texts]:
    for batch in together:
        encoded = tokenizer.encode_batch(batch)
        values = {
            "input_ids": [one.ids for one in encoded],
            "attention_mask": [one.attention_mask for one in encoded],
            "token_type_ids": [one.type_ids for one in encoded],
        }
        with torch.no_grad():
            logits += model(**{name: torch.tensor(values[name]) for name in about["inputs"]}).tolist()
print(json.dumps({"logits": logits, "labels": about["labels"]}))
"""
)


@pytest.fixture(scope="module")
def torch_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return linked_python(tmp_path_factory.mktemp("torch-and-transformers"), without=("axforge", "app"))


@pytest.fixture(scope="module")
def program_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return linked_python(tmp_path_factory.mktemp("torch"), without=("axforge", "app", "transformers"))


def linked_python(folder: Path, *, without: tuple[str, ...]) -> Path:
    """The Python of a virtual environment with this one's packages, but for some."""
    venv.create(folder, with_pip=False)
    packages = folder / "packages"
    packages.mkdir()
    for source in map(Path, (entry for entry in sys.path if entry.endswith("site-packages"))):
        for package in source.iterdir():
            left_out = package.suffix == ".pth" or package.name.split("-")[0].split("_")[0] in without
            link = packages / package.name
            if not left_out and not link.exists():
                link.symlink_to(package)
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "packages.pth").write_text(f"{packages}\n")
    return folder / "bin" / "python"


def run_in(python: Path, program: str, *arguments: str, cwd: Path) -> dict[str, Any]:
    command = [str(python), "-I", "-c", program, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert result.returncode == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return answer


def model_of(family: str, recipe: Recipe) -> PreTrainedModel:
    dense = tiny_classifier(family)
    return sliced(dense, anatomy_of(dense).shape(recipe))


def expected(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    encoded = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**encoded).logits.numpy()


def test_onnx_needs_only_onnxruntime_and_tokenizers(
    onnx_python: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model = model_of("bert", MIXED)
    save_onnx_folder(model, tokenizer, tmp_path / "fp32", max_length=32)
    save_onnx_folder(model, tokenizer, tmp_path / "int8", max_length=32, quantize=Quantize())
    plain = run_in(onnx_python, RUN_ONNX, str(tmp_path / "fp32"), json.dumps(TEXTS), cwd=tmp_path)
    int8 = run_in(onnx_python, RUN_ONNX, str(tmp_path / "int8"), json.dumps(TEXTS), cwd=tmp_path)
    wanted = expected(model, tokenizer)
    np.testing.assert_allclose(plain["logits"], wanted, rtol=0, atol=1e-4)
    np.testing.assert_allclose(int8["logits"], wanted, rtol=0, atol=0.2 * np.abs(wanted).max())
    assert plain["labels"] == ["label 0", "label 1", "label 2"]


def test_onnx_with_several_precisions_needs_nothing_more(
    onnx_python: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model, half, rest = model_of("bert", MIXED), "layer.0.ffn.input", "layer.2.attention.input"
    step = Quantize(weights="w4a8", matrices={half: "fp16", rest: "int4"}, embeddings="int4")
    save_onnx_folder(model, tokenizer, tmp_path / "mixed", max_length=32, quantize=step)
    answer = run_in(onnx_python, RUN_ONNX, str(tmp_path / "mixed"), json.dumps(TEXTS), cwd=tmp_path)
    wanted = expected(model, tokenizer)
    np.testing.assert_allclose(answer["logits"], wanted, rtol=0, atol=0.4 * np.abs(wanted).max())


def test_a_program_needs_only_torch_and_tokenizers(
    program_python: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model = model_of("bert", MIXED)
    save_program_folder(model, tokenizer, tmp_path / "program", max_length=32)
    answer = run_in(program_python, RUN_PROGRAM, str(tmp_path / "program"), json.dumps(TEXTS), cwd=tmp_path)
    wanted = expected(model, tokenizer)
    np.testing.assert_allclose(answer["logits"], np.tile(wanted, (2, 1)), rtol=0, atol=1e-4)
    assert answer["labels"] == ["label 0", "label 1", "label 2"]


def test_native_folder_needs_only_transformers(
    torch_python: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model = model_of("bert", NATIVE)
    assert save_folder(model, tokenizer, tmp_path / "model") == "native"
    answer = run_in(torch_python, RUN_TORCH, str(tmp_path / "model"), json.dumps(TEXTS), "{}", cwd=tmp_path)
    assert answer["class"] == "BertForSequenceClassification"
    np.testing.assert_allclose(answer["logits"], expected(model, tokenizer), rtol=0, atol=1e-4)


def test_other_shapes_bring_their_code(
    torch_python: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model = model_of("bert", MIXED)
    assert save_folder(model, tokenizer, tmp_path / "model") == "remote_code"
    arguments = (str(tmp_path / "model"), json.dumps(TEXTS), '{"trust_remote_code": true}')
    answer = run_in(torch_python, RUN_TORCH, *arguments, cwd=tmp_path)
    assert answer["class"] == "AxforgeForSequenceClassification"
    np.testing.assert_allclose(answer["logits"], expected(model, tokenizer), rtol=0, atol=1e-4)


def written_on(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], np.ndarray]:
    """The likeliest tokens after `PROMPT`, each worked out from all before it, and their logits."""
    tokens, logits = tokenizer(PROMPT)["input_ids"], []
    for _ in range(NEW_TOKENS):
        with torch.no_grad():
            logits.append(model(input_ids=torch.tensor([tokens])).logits[0, -1].numpy())
        tokens = [*tokens, int(logits[-1].argmax())]
    return tokens, np.array(logits)


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerBase:
    return byte_pair_tokenizer(TEXTS, VOCABULARY)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_language_models_onnx_file_writes_on_with_onnxruntime_and_tokenizers(
    family: str, onnx_python: Path, words: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model = sliced_decoder(family, MIXED)
    save_onnx_folder(model, words, tmp_path / "onnx", max_length=32)
    arguments = (str(tmp_path / "onnx"), PROMPT, str(NEW_TOKENS))
    answer = run_in(onnx_python, GENERATE_ONNX, *arguments, cwd=tmp_path)
    tokens, logits = written_on(model, words)
    assert answer["tokens"] == tokens
    np.testing.assert_allclose(answer["logits"], logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "recipe"),
    [
        pytest.param("llama", NATIVE, marks=pytest.mark.slow),
        pytest.param("gpt2", MIXED, marks=pytest.mark.slow),
        ("llama", MIXED),
    ],
)
def test_a_language_models_folder_generates_with_transformers(
    family: str, recipe: Recipe, torch_python: Path, words: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model, own = sliced_decoder(family, recipe), recipe is MIXED
    assert save_folder(model, words, tmp_path / "model") == ("remote_code" if own else "native")
    options = json.dumps({"trust_remote_code": True} if own else {})
    arguments = (str(tmp_path / "model"), PROMPT, str(NEW_TOKENS), options)
    answer = run_in(torch_python, GENERATE_TORCH, *arguments, cwd=tmp_path)
    tokens, logits = written_on(model, words)
    assert answer["class"] == ("AxforgeForCausalLM" if own else "LlamaForCausalLM")
    assert answer["tokens"] == tokens
    np.testing.assert_allclose(answer["logits"], logits, rtol=0, atol=1e-4)
    # All but the first step read one token: what came before is in the cache.
    assert answer["steps"] == [len(tokens) - NEW_TOKENS, *[1] * (NEW_TOKENS - 1)]


def sliced_decoder(family: str, recipe: Recipe) -> PreTrainedModel:
    """Of a model that never ends a text: its end would have to be the likeliest token."""
    dense = tiny_decoder(family, eos_token_id=None)
    dense.generation_config.eos_token_id = None
    return sliced(dense, anatomy_of(dense).shape(recipe))
