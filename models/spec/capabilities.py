"""What the service can do, for those who must know it without loading torch."""

ARCHITECTURES: tuple[str, ...] = (
    "bert",
    "camembert",
    "distilbert",
    "electra",
    "mpnet",
    "roberta",
    "xlm-roberta",
)
"""The `model_type`s that a base model's config.json may have."""
