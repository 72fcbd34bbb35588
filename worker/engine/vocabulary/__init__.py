"""A vocabulary for one task: which rows it needs, and a tokenizer that gets by with them."""

from worker.engine.vocabulary.needed import needed_rows
from worker.engine.vocabulary.rewriting import TokenizerUnsupported, with_rows

__all__ = ["TokenizerUnsupported", "needed_rows", "with_rows"]
