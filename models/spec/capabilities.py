"""What the service can do, for those who must know it without loading torch."""

from models.spec.tasks import TaskName

ENCODERS: tuple[str, ...] = (
    "albert",
    "bert",
    "camembert",
    "deberta-v2",
    "distilbert",
    "electra",
    "modernbert",
    "mpnet",
    "roberta",
    "xlm-roberta",
    "xlnet",
)
DECODERS: tuple[str, ...] = ("gpt2", "llama", "mistral", "opt", "qwen2", "qwen3")
"""They serve task causal-lm, and encoders all others."""
ARCHITECTURES: tuple[str, ...] = tuple(sorted(ENCODERS + DECODERS))
"""The `model_type`s that a base model's config.json may have."""


def architectures_of(task: TaskName) -> tuple[str, ...]:
    """The `model_type`s that serve a task."""
    return DECODERS if task == "causal-lm" else ENCODERS
