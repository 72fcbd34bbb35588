"""One random (architecture, head, recipe) pair, known by its seed, and whether the law of the engine holds.

Architectures, heads and approximations are those of the engine's registries and of the generators that the
contract suite uses: what is added there comes in here.
"""

from __future__ import annotations

import random
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from models.spec import Recipe
from tests.contract.test_heads_law import TOLERANCE, batch_for, onnx_logits, real
from tests.engine.decoder_models import DECODERS, OnnxDecoder, tiny_decoder
from tests.engine.export_models import (
    FAMILIES,
    WITH_TOKEN_TYPES,
    NoClearBatchError,
    logits,
    random_recipe,
    tiny_model,
)
from tests.tiny_models import wordpiece_tokenizer
from worker.engine.anatomy import anatomy_of, family_of
from worker.engine.anatomy.heads import AUTO_CLASSES, HeadKind
from worker.engine.anatomy.slicing import is_native, sliced
from worker.engine.export.onnx import export_onnx
from worker.engine.export.safetensors import load_folder, save_folder

UNIFORM = 0.25  # of the recipes: such as a stock class can hold
DRAWS = 3  # of a dense model's weights
ELSEWHERE = 20  # every so many pairs, the folder's own modelling files are run, as users run them


@dataclass(frozen=True)
class Pair:
    seed: int
    architecture: str
    head: HeadKind
    recipe: Recipe


@dataclass(frozen=True)
class Outcome:
    """What became of a pair: the largest differences of fp32 logits to the masked model's, by form.

    `changed`: the recipe changes what the model answers. `failure` is empty where the law holds.
    """

    seed: int
    architecture: str
    head: HeadKind
    native: bool
    changed: bool
    differences: Mapping[str, float]
    failure: str = ""

    @property
    def largest(self) -> float:
        return max(self.differences.values(), default=0.0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def pair_of(seed: int) -> Pair:
    """The pair of a seed; the same one as long as registries and generators are."""
    chance = random.Random(seed)
    architecture = chance.choice(sorted((*FAMILIES, *DECODERS)))
    head = chance.choice(sorted(family_of(architecture).heads))
    recipe = random_recipe(chance.randrange(2**31), uniform=chance.random() < UNIFORM)
    return Pair(seed, architecture, head, recipe)


def judged(pair: Pair) -> Outcome:
    """Whether masked == sliced == reloaded folder == ONNX, and the counts of parameters agree."""
    try:
        with tempfile.TemporaryDirectory(prefix="axforge-contract-") as folder:
            return _compared(pair, Path(folder))
    except Exception:  # whatever a pair does is its outcome, and the next one's turn comes
        return Outcome(pair.seed, pair.architecture, pair.head, False, False, {}, traceback.format_exc())


def _compared(pair: Pair, folder: Path) -> Outcome:
    dense, small, batch = _clear(pair)
    anatomy, tokenizer = anatomy_of(dense), _tokenizer(pair.architecture)
    shape = anatomy.shape(pair.recipe)
    native = is_native(anatomy, shape)

    def answers(model: PreTrainedModel) -> torch.Tensor:
        return real(logits(model, batch), batch, pair.head)

    with anatomy.masked(shape):
        masked = answers(dense)
    loadable = save_folder(small, tokenizer, folder / "model")
    forms = {"sliced": answers(small), "reloaded": answers(load_folder(folder / "model"))}
    if pair.seed % ELSEWHERE == 0:
        loader = AUTO_CLASSES[pair.head]
        elsewhere = loader.from_pretrained(folder / "model", trust_remote_code=not native)
        forms["elsewhere"] = answers(elsewhere.eval())
    export_onnx(small, tokenizer, folder / "model.onnx")
    forms["onnx"] = real(_of_file(folder / "model.onnx", batch, pair.head), batch, pair.head)
    whole = answers(dense)  # of more words than a language model with a smaller vocabulary
    differences = {name: float((form - masked).abs().max()) for name, form in forms.items()}
    return Outcome(
        pair.seed,
        pair.architecture,
        pair.head,
        native,
        masked.shape != whole.shape or not torch.allclose(masked, whole, atol=1e-2),
        differences,
        _failure(
            differences,
            loadable == ("native" if native else "remote_code"),
            small.num_parameters() == anatomy.parameters(shape),
        ),
    )


def _clear(pair: Pair) -> tuple[PreTrainedModel, PreTrainedModel, dict[str, torch.Tensor]]:
    """A dense model, what is left of it, and a batch on which sign matching is well defined.

    Raises NoClearBatchError where none of `DRAWS` dense models has such a batch.
    """
    for draw in range(DRAWS):
        dense = _dense(pair.architecture, pair.head, draw)
        small = sliced(dense, anatomy_of(dense).shape(pair.recipe))
        try:
            return dense, small, batch_for(small, pair.head, pair.seed)
        except NoClearBatchError:
            continue  # the weights alone put a sign within rounding of 0
    raise NoClearBatchError(f"no batch is clear for any of {DRAWS} models")


def _of_file(path: Path, batch: dict[str, torch.Tensor], head: HeadKind) -> torch.Tensor:
    """What the ONNX file answers; of a language model with nothing read before."""
    if head != "causal":
        return onnx_logits(path, batch)
    return OnnxDecoder(path).begin(len(batch["input_ids"])).step(batch["input_ids"], batch["attention_mask"])


def _failure(differences: Mapping[str, float], loads_as_told: bool, counts_agree: bool) -> str:
    # Not a number is larger than everything.
    far = [f"{name} differs by {gap:.3g}" for name, gap in differences.items() if not gap <= TOLERANCE]
    told = [] if loads_as_told else ["the folder is not loaded as is_native tells"]
    return "; ".join([*far, *told, *([] if counts_agree else ["parameters are miscounted"])])


@cache
def _dense(architecture: str, head: HeadKind, draw: int) -> PreTrainedModel:
    return tiny_decoder(architecture, draw) if head == "causal" else tiny_model(architecture, head, draw)


@cache
def _tokenizer(architecture: str) -> PreTrainedTokenizerBase:
    tokenizer = wordpiece_tokenizer(["a few words", "and some more of them"], 100)
    types = ["token_type_ids"] if architecture in WITH_TOKEN_TYPES else []
    tokenizer.model_input_names = ["input_ids", *types, "attention_mask"]
    return tokenizer
