"""What every approximation tells about itself, and what a structural one does to a shape."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, TypeVar

from models.spec import ApproximationName, Step

if TYPE_CHECKING:
    from worker.engine.anatomy.shape import Shape

StepT = TypeVar("StepT", bound=Step)
Named = tuple[
    str, Literal["layer", "head", "channel", "dimension", "row", "rank", "embedding rank"], tuple[int, ...]
]
"""A field of a step, what its numbers count, and the numbers."""


class Approximation(ABC, Generic[StepT]):
    """One kind of decision in a recipe. `step` is its JSON form, a model of `models.spec`."""

    name: ClassVar[ApproximationName]
    step: ClassVar[type]
    changes_size: ClassVar[bool]
    changes_speed: ClassVar[bool]
    structural: ClassVar[bool] = False
    """Whether it acts on the model's shape; otherwise on the exported file."""
    runtimes: ClassVar[tuple[Literal["onnxruntime", "torch"], ...]] = ("onnxruntime", "torch")
    """Where a model with it runs."""


class Structural(Approximation[StepT]):
    """Takes elements away: any supported model can be masked, sliced and exported with it."""

    structural = True

    @abstractmethod
    def named(self, step: StepT) -> Iterable[Named]:
        """The elements that `step` names, for checking them against a model."""

    @abstractmethod
    def narrowed(self, shape: Shape, step: StepT) -> Shape:
        """`shape` after `step`. Raises IndexError when it names a layer that does not exist."""
