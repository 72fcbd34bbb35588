"""From the job's sources to a checked base model and to training, selection and holdout rows."""

from worker.engine.prepare.dataset import PreparedData, prepare_dataset
from worker.engine.prepare.load import load_model, load_tokenizer
from worker.engine.prepare.model_source import check_model_folder, resolve_model

__all__ = [
    "PreparedData",
    "check_model_folder",
    "load_model",
    "load_tokenizer",
    "prepare_dataset",
    "resolve_model",
]
