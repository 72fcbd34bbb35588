"""The safetensors folder: native where a stock class holds the shape, else with its own modelling file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from models.spec import Loadable
from worker.engine.export import axforge_attention, modeling_axforge
from worker.engine.export.modeling_axforge import AxforgeForSequenceClassification

MODELLING = (modeling_axforge, axforge_attention)
"""The modules that a folder carries when no stock class holds its shape; the first has the classes."""


def save_folder(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Loadable:
    """Write config, weights and tokenizer; answers how the folder is loaded elsewhere.

    `native`: by plain `AutoModelForSequenceClassification.from_pretrained`. `remote_code`: the same with
    `trust_remote_code=True`, which runs the modelling file that is put beside the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = isinstance(model, AxforgeForSequenceClassification)
    if own:
        files = [Path(str(module.__file__)) for module in MODELLING]
        stem = files[0].stem
        model.config.auto_map = {
            "AutoConfig": f"{stem}.AxforgeConfig",
            "AutoModelForSequenceClassification": f"{stem}.AxforgeForSequenceClassification",
        }
        for file in files:
            shutil.copyfile(file, folder / file.name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return "remote_code" if own else "native"


def load_folder(folder: Path) -> PreTrainedModel:
    """The model that `save_folder` wrote, in evaluation mode. The folder's own code is not run."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own = config["model_type"] == "axforge"
    loader = AxforgeForSequenceClassification if own else AutoModelForSequenceClassification
    model: PreTrainedModel = loader.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    return model.eval()
