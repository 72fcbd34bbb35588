"""Students: with which weights a recipe's model begins to learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from models.spec import Recipe, Recover
from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.grafting import grafted
from worker.engine.anatomy.slicing import sliced
from worker.engine.export.safetensors import load_folder
from worker.engine.run import Run
from worker.engine.stages.fitting import judged


@dataclass(frozen=True)
class Trained:
    """A model that was trained on the way: its recipe, and where it lies."""

    recipe: Recipe
    folder: Path

    def load(self) -> PreTrainedModel:
        return load_folder(self.folder)


@dataclass(frozen=True)
class Student:
    """A model that is to learn, its recipe so far, and the model that it has lost something against."""

    model: PreTrainedModel
    recipe: Recipe
    before: PreTrainedModel


def student_of(
    run: Run, recipe: Recipe, trained: Sequence[Trained], origin: Trained | None = None
) -> Student:
    """The model of `recipe`, with the weights of the last of `trained` that holds all of it.

    Where none does, it begins with the dense model's weights, or with these and what the last of `trained`
    has learnt, by what does better on the selection split. `origin` stands for the dense model where
    the search has trained its weights.
    """
    dense, shape = run.anatomy.model if origin is None else origin.load(), run.shape(recipe)
    for known in reversed(trained):
        if shape.within(run.shape(known.recipe)):
            before = known.load()
            return Student(sliced(before, anatomy_of(before).shape(recipe)), recipe, before)
    untaught = Student(sliced(dense, shape), recipe, dense)
    if not trained:
        return untaught
    try:
        taught = grafted(dense, shape, trained[-1].load())
    except ValueError:  # it has parts that this one lacks
        return untaught
    if judged(run, taught).loss >= judged(run, untaught.model).loss:
        return untaught
    learnt = [step for step in trained[-1].recipe.steps if isinstance(step, Recover)]
    return Student(taught, recipe.then(*learnt), dense)
