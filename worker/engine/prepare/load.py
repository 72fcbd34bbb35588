"""The base model and its tokenizer in memory, with a head that fits the data's labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AlbertTokenizer,
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    XLNetTokenizer,
)
from transformers.utils import logging as transformers_logging

from models.spec.capabilities import ARCHITECTURES
from worker.engine.anatomy import family_of, headless
from worker.engine.anatomy.families import reads_token_types
from worker.engine.anatomy.heads import AUTO_CLASSES, HeadKind, kind_of
from worker.engine.anatomy.slicing import recast
from worker.engine.errors import ModelError
from worker.engine.prepare.model_source import POINTER
from worker.engine.tasks.base import Task

# Parts of a model that classification trains anew where a checkpoint lacks them.
_TRAINED_ANEW = ("pooler",)
UNNAMED_SEGMENTS = (AlbertTokenizer, XLNetTokenizer)
"""Tokenizers that make token types and, since transformers 5, do not say so (transformers' issue 48128)."""
CLASSIFIERS: tuple[HeadKind, ...] = ("sequence", "token")
"""Heads whose outputs are the labels of the data."""
SPAN_OUTPUTS = ("start", "end")
MULTI_LABEL, REGRESSION = "multi_label_classification", "regression"


def load_model(
    folder: Path, task: Task, *, labels: Sequence[str], seed: int = 0
) -> tuple[PreTrainedModel, bool]:
    """The model of a checked folder with the task's head (fp32, eval mode), and whether that is trained.

    A classifier's head counts as trained when its label names are those of the data (letter case aside), and
    is put in the data's order; or when its names are generic (LABEL_0, ...) and the data's labels are
    0 .. n-1. Any other head counts when the folder's model class has one of its kind. What does not count
    is initialised from `seed`.
    Raises ModelError when the weights are not of the architecture that the config describes, and
    UnsupportedArchitecture when it has no such head.
    """
    _quiet()
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if task.head not in family_of(config.model_type).heads:
        raise headless(config.model_type, task.head)
    order = _head_order(config, task, labels)
    _set_outputs(config, task, labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, missing = _loaded(folder, config, task.head)
        trained = order is not None and not missing
        if not trained:
            _initialise_head(model)
    if trained and order:
        _reorder_head(model, order)
    if task.head == "causal":
        model.config.use_cache = False  # scoring and training read whole texts; `save_folder` puts it back
    return recast(model).eval(), trained


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a checked folder. Raises ModelError."""
    _quiet()
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, use_fast=True
        )
    except Exception as error:  # the library raises whatever its parsers do: also bare Exception
        raise ModelError(
            "the base model's tokenizer cannot be read",
            remedy="write it again with tokenizer.save_pretrained(folder)",
            pointer=POINTER,
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # as language models are usually padded
    if not tokenizer.is_fast or tokenizer.pad_token_id is None:
        raise ModelError(
            "the base model's tokenizer has no fast form or no padding token",
            remedy="give a tokenizer.json with a padding token",
            pointer=POINTER,
        )
    if isinstance(tokenizer, UNNAMED_SEGMENTS) and "model_input_names" not in tokenizer.init_kwargs:
        # Kept with the tokenizer, so that a delivered folder's makes them, too.
        names = ["input_ids", "token_type_ids", "attention_mask"]
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names
    if not _has_segments(folder):
        names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
        tokenizer.model_input_names = names
    return tokenizer


def head_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The model's parts outside its encoder, by name."""
    return {name: part for name, part in model.named_children() if name != model.base_model_prefix}


def _quiet() -> None:
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _has_segments(folder: Path) -> bool:
    """Whether the model tells a pair's first text from its second by token type ids.

    True where the folder does not say what it is a tokenizer for.
    """
    file = folder / "config.json"
    model_type = json.loads(file.read_text(encoding="utf-8")).get("model_type") if file.is_file() else None
    if model_type not in ARCHITECTURES:
        return True
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return reads_token_types(family_of(config.model_type).variant(config))


def _loaded(folder: Path, config: PreTrainedConfig, head: HeadKind) -> tuple[PreTrainedModel, bool]:
    """The model, and whether weights of its head are missing in the folder."""
    try:
        model, info = AUTO_CLASSES[head].from_pretrained(
            folder,
            config=config,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise _unfit("transformers cannot load them") from error
    absent = {*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])}
    encoder = f"{model.base_model_prefix}."
    broken = sorted(
        name
        for name in absent
        if name.startswith(encoder) and name.removeprefix(encoder).split(".")[0] not in _TRAINED_ANEW
    )
    if broken:
        raise _unfit(f"{len(broken)} tensors are missing or of another shape, such as {broken[0]}")
    if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters()):
        raise _unfit("some are not finite numbers")
    return model, bool(absent)


def _set_outputs(config: PreTrainedConfig, task: Task, labels: Sequence[str]) -> None:
    """Let the config say what the head answers, and what its loss is called."""
    names = labels if task.head in CLASSIFIERS else SPAN_OUTPUTS if task.head == "span" else ()
    if names:
        config.update({"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}})
    config.update({"problem_type": task.problem_type})


def _head_order(config: PreTrainedConfig, task: Task, labels: Sequence[str]) -> list[int] | None:
    """For each label of the data the head's row, empty where it has none; None where the head is another."""
    kind = kind_of(config.architectures)
    if task.head == "causal" and config.tie_word_embeddings:
        return []  # the head is the word embedding, whatever else the checkpoint was saved with
    if config.architectures and kind != task.head:
        return None
    if task.head not in CLASSIFIERS:
        return []
    if task.problem_type == REGRESSION:
        return [] if config.num_labels == 1 else None
    if task.problem_type == MULTI_LABEL != config.problem_type:
        return None
    own = [str(config.id2label[row]).casefold() for row in sorted(config.id2label)]
    wanted = [label.casefold() for label in labels]
    if len(set(own)) == len(own) and sorted(own) == sorted(wanted):
        return [own.index(label) for label in wanted]
    generic = own == [f"label_{row}" for row in range(len(own))]
    if generic and wanted == [str(row) for row in range(len(own))]:
        return list(range(len(own)))
    return None


def _initialise_head(model: PreTrainedModel) -> None:
    words = model.get_input_embeddings().weight  # which may be the head's weight, too
    spread = float(getattr(model.config, "initializer_range", 0.02))
    for part in head_modules(model).values():
        for module in part.modules():
            if isinstance(module, nn.Linear) and module.weight is not words:
                nn.init.normal_(module.weight, std=spread)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _reorder_head(model: PreTrainedModel, order: list[int]) -> None:
    outputs = [
        module
        for part in head_modules(model).values()
        for module in part.modules()
        if isinstance(module, nn.Linear)
    ][-1]
    with torch.no_grad():
        outputs.weight.copy_(outputs.weight[order].clone())
        outputs.bias.copy_(outputs.bias[order].clone())


def _unfit(why: str) -> ModelError:
    return ModelError(
        f"the base model's weights do not fit its config.json: {why}",
        remedy="give config.json and weights that were saved together by save_pretrained",
        pointer=POINTER,
    )
