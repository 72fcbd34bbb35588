"""Running a model from one of its layers on, with what the layers before it are known to answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import nn

from worker.engine.anatomy.base import Anatomy


def layer_modules(anatomy: Anatomy) -> nn.ModuleList:
    """The layers that the model has, in the list from which it takes them."""
    return cast(nn.ModuleList, anatomy.model.get_submodule(anatomy.family.layers))


@contextmanager
def beginning_at(anatomy: Anatomy, position: int, answer: Any, *, end: int | None = None) -> Iterator[None]:
    """Inside, the model begins at its layer `position`, with `answer` as what the one before it gave.

    `position` counts the layers that the model has; one past the last leaves the head alone. At 0 the
    embeddings are what it begins with, and `answer` is not looked at; else they are computed in vain.
    With `end` the layers from there on are left out, and the head answers to what it should not see.
    """
    path, _, name = anatomy.family.layers.rpartition(".")
    parent, layers = anatomy.model.get_submodule(path), layer_modules(anatomy)
    # As many layers as before: some models know a layer's kind by its place.
    before = [_Answer(answer, layer) for layer in layers[:position]]
    if position or end is not None:
        setattr(parent, name, nn.ModuleList([*before, *layers[position:end]]))
    try:
        yield
    finally:
        setattr(parent, name, layers)


class _Answer(nn.Module):
    """A layer that knows its answer. What else the model asks of it, it has from the layer it stands for."""

    def __init__(self, answer: Any, layer: nn.Module) -> None:
        super().__init__()
        self._answer = answer
        self.__dict__ |= {name: value for name, value in vars(layer).items() if not name.startswith("_")}

    def forward(self, *given: Any, **named: Any) -> Any:
        """What was kept, whatever is given."""
        return self._answer
