"""What the service can do, for those who must know it without loading torch."""

ARCHITECTURES: tuple[str, ...] = (
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
)
"""The `model_type`s that a base model's config.json may have."""
