"""What an estimator of significance is given, and what it answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np

from models.spec import EstimatorName, GroupSizes
from worker.engine.anatomy import Anatomy, Shape
from worker.engine.device import Device, Precision
from worker.engine.significance.elements import Element
from worker.engine.tasks import Split, Task

GRADIENT_PASS = 3  # a backward pass multiplies twice as many matrices as the forward pass before it


class Significance(Protocol):
    """What elements of a shape weigh, in a unit that is the same for all of them: more is needed more."""

    def of(self, element: Element) -> float:
        """Of any element of the shape that was weighed."""

    def channel_scores(self, layer: int) -> np.ndarray:
        """Of each FFN channel of a layer, (channels,) by dense index: only its order means anything."""

    def hidden_scores(self) -> np.ndarray | None:
        """The same of each hidden dimension, (dimensions,); None where it knows nothing of them."""


@dataclass
class Tally:
    """Token-layers that were computed: one layer run forward on one token (padding does not count) is 1."""

    token_layers: int = 0

    def add(self, tokens: int, layers: int, passes: int = 1) -> None:
        self.token_layers += tokens * layers * passes


@dataclass(frozen=True)
class Material:
    """What estimators work from: the model masked to `shape` on `rows`; `tally` hears what that took.

    `sizes`: how many channels go together; `hidden`: whether hidden dimensions are to be weighed, too.
    """

    anatomy: Anatomy
    shape: Shape
    rows: Split
    task: Task
    device: Device
    batch_size: int = 32
    precision: Precision = "fast"
    sizes: GroupSizes = field(default_factory=GroupSizes)
    hidden: bool = False
    tally: Tally = field(default_factory=Tally)

    def count(self, passes: int) -> None:
        """Note so many passes of the whole model over all rows."""
        self.tally.add(int(self.rows.lengths.sum()), len(self.anatomy.parts), passes)


class Estimator(ABC):
    """One way to estimate significance. Stateless; one instance in the registry serves every run.

    `source` says where the formula is from, `measures` what the numbers are, for people.
    """

    name: ClassVar[EstimatorName]
    source: ClassVar[str]
    measures: ClassVar[str]
    knows_hidden: ClassVar[bool] = True
    """Whether it weighs hidden groups."""

    @abstractmethod
    def weigh(self, material: Material) -> Significance:
        """Weigh what the shape has left. The model is put on the device; its weights stay as they are."""
