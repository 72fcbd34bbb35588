"""Training masks, with the weights or with these frozen, until what is left costs what is asked.

Loss = distillation (`loss`) + kl_weight * divergence of the masks + the Lagrangian's penalty (VTrans, arXiv
2406.05276; multipliers as in CoFi). Every state that matters is in the checkpoint, random numbers too: on a
CPU a training that was killed goes on to the same masks and weights.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from worker.engine.anatomy import Anatomy
from worker.engine.device import Device
from worker.engine.errors import Stopped
from worker.engine.learned.expected_cost import ExpectedCosts
from worker.engine.learned.lagrangian import Lagrangian, Standing, climber
from worker.engine.learned.loss import MaskedDistillation
from worker.engine.learned.soft_amounts import Kept, expected_amounts
from worker.engine.learned.vib import Kind, Masks, sharpness
from worker.engine.prepare.disk import disk_room
from worker.engine.reporting import Reporter, Stage
from worker.engine.tasks.split import Batch, Split
from worker.engine.training.loop import optimizer_of
from worker.engine.training.vocabulary import CompactVocabulary

CHECKPOINT_SECONDS = 30.0
FIRST_LOOKS = (2, 5)
PACE_STEPS = 10  # after every so many, the steps that are left are counted anew by what they take
SHARPER_FROM, SHARPEST_AT = 0.6, 0.95  # of the steps
USUAL_STEPS = 300  # with fewer, masks and multipliers take larger ones
SNAPSHOTS = (0.25, 0.5, 0.75)  # of the steps, after which the caller may look
WEIGHTS_WARM_UP = 0.1
MEAN, MEANS_SLOWER = ".mu", 0.4
MASK_BETAS = (0.9, 0.99)  # gradients grow with the multipliers
MASKS_SLOW_FROM = 0.8  # of the steps: masks come to rest from there on


@dataclass(frozen=True)
class MaskOptions:
    """`weights`: these are trained, too. `epochs` are the steps that are planned, `max_seconds` what they may
    take; with less time there are fewer steps, and the target rises faster. Learning rates: of the weights
    the peak."""

    weights: bool
    epochs: int
    batch_size: int
    learning_rate: float
    mask_learning_rate: float
    multiplier_learning_rate: float
    kl_weight: float
    max_grad_norm: float
    weight_decay: float
    max_seconds: float | None
    seed: int


@dataclass
class Position:
    """Where a training stands; `total` are the steps that it is to have in the end."""

    total: int
    step: int = 0
    epoch: int = 0
    place: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def progress(self) -> float:
        return self.step / self.total


@dataclass
class MaskTraining:
    """One training of `masks` (and the weights of the anatomy's model) on `train`.

    `prices`: what a unit of each kind costs; `file`: where the checkpoint is.
    """

    anatomy: Anatomy
    masks: Masks
    lagrangian: Lagrangian
    costs: ExpectedCosts
    prices: Mapping[Kind, float]
    loss: MaskedDistillation
    train: Split
    options: MaskOptions
    device: Device
    reporter: Reporter
    file: Path
    stage: Stage = "search"

    def run(self) -> Iterator[Position]:
        """Train; yields at each of `SNAPSHOTS` and at the end, when a checkpoint is written.

        Between, the model is as it is then, all of its vocabulary in place. What the caller does with random
        numbers changes nothing. Raises Stopped, with a checkpoint written.
        """
        model = self.anatomy.model
        model.to(self.device.torch_device).eval()
        model.requires_grad_(self.options.weights)
        self.masks.to(self.device.torch_device)
        with ExitStack() as stack:
            stack.enter_context(self.device.seeded(self.options.seed))
            split = self.train
            vocabulary = CompactVocabulary.of(model, self.train) if self.options.weights else None
            if vocabulary is not None:
                stack.enter_context(vocabulary.compact())
                split = vocabulary.split
            self._optimizers = self._made_optimizers()
            self._position = Position(self.options.epochs * split.batch_count(self.options.batch_size))
            self._planned = self._position.total
            self._restore()
            for position in self._steps(split):
                with self._at_rest(vocabulary):
                    yield position

    def _steps(self, split: Split) -> Iterator[Position]:
        """All that are left; yields where the caller may look."""
        at, saved = self._position, time.monotonic()
        while at.step < at.total:
            batches = split.batches(self.options.batch_size, shuffle_seed=self._shuffle_seed(at.epoch))
            for batch in islice(batches, at.place, None):
                self._check()
                self._teach_as_before(split, batch)
                before, began = at.progress, time.monotonic()
                self._step(batch)
                at.seconds += time.monotonic() - began
                self._plan_anew()
                if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                    self._save()
                    saved = time.monotonic()
                if at.step < at.total and any(before < look <= at.progress for look in SNAPSHOTS):
                    self._save()
                    yield at
                if at.step >= at.total:
                    break
            else:
                at.epoch, at.place = at.epoch + 1, 0
        self._save()
        yield at

    def _teach_as_before(self, split: Split, batch: Batch) -> None:
        """The teacher's answers are those of the first epoch, in whose batches they were worked out.

        A training that goes on has lost them, and rounding depends on the batch.
        """
        cache = self.loss.cache
        lacking = cache.lacking(batch.index)
        if not self._position.epoch or not len(lacking):
            return
        for rows in split.batch_indices(self.options.batch_size, shuffle_seed=self._shuffle_seed(0)):
            if np.isin(rows, lacking).any():
                first = split.batch(rows)
                with self.device.attention(first.inputs["input_ids"].shape[1]):
                    cache.answers(first)

    def _shuffle_seed(self, epoch: int) -> int:
        return self.options.seed * 10_007 + epoch

    def _step(self, batch: Batch) -> None:
        at, options = self._position, self.options
        self._set_rates(at.progress)
        hardness = sharpness((at.progress - SHARPER_FROM) / (SHARPEST_AT - SHARPER_FROM))
        with self.device.attention(batch.inputs["input_ids"].shape[1]):
            task_loss = self.loss.of(batch, hardness)
        kept = expected_amounts(self.anatomy, Kept(self.masks, hardness))
        costs = [self.costs.of(bound.cost, kept) for bound in self.lagrangian.bounds]
        penalty, standing = self.lagrangian(costs, at.progress)
        information = options.kl_weight * self.masks.divergence(self.prices)
        (task_loss + information + penalty.to(task_loss.device)).backward()
        if options.weights:
            nn.utils.clip_grad_norm_(self.anatomy.model.parameters(), options.max_grad_norm)
        for optimizer in self._optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        at.step += 1
        at.place += 1
        self._tell(standing, float(task_loss.detach()))

    def _made_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        options = self.options
        made: dict[str, torch.optim.Optimizer] = {
            "masks": self._optimizer_of_masks(),
            "multipliers": climber(self.lagrangian, options.multiplier_learning_rate),
        }
        if options.weights:
            made["weights"] = optimizer_of(self.anatomy.model, options.learning_rate, options.weight_decay)
        return made

    def _optimizer_of_masks(self) -> torch.optim.Optimizer:
        """Means change less than variances: they are part of what the model computes."""
        named = [(name, value) for name, value in self.masks.named_parameters()]
        groups: list[dict[str, Any]] = [
            {"params": [value for name, value in named if name.endswith(MEAN) == is_mean], "factor": factor}
            for is_mean, factor in ((True, MEANS_SLOWER), (False, 1.0))
        ]
        return torch.optim.Adam(groups, lr=self.options.mask_learning_rate, betas=MASK_BETAS)

    def _set_rates(self, progress: float) -> None:
        """Weights: linear up, linear down. Masks: steady, then linear down. Multipliers: steady."""
        up = min(1.0, (progress * self._position.total + 1) / (WEIGHTS_WARM_UP * self._position.total + 1))
        larger = max(1.0, USUAL_STEPS / self._position.total)
        resting = min(1.0, (1.0 - progress) / (1.0 - MASKS_SLOW_FROM))
        rates = {
            "weights": self.options.learning_rate * min(up, (1.0 - progress) / (1.0 - WEIGHTS_WARM_UP)),
            "masks": self.options.mask_learning_rate * resting * larger,
            "multipliers": self.options.multiplier_learning_rate * larger,
        }
        for name, rate in rates.items():
            if name in self._optimizers:
                for group in self._optimizers[name].param_groups:
                    group["lr"] = rate * group.get("factor", 1.0)

    def _plan_anew(self) -> None:
        at, allowed = self._position, self.options.max_seconds
        if allowed is None:
            return
        if at.seconds >= allowed:
            at.total = at.step
        elif at.step % PACE_STEPS == 0 or at.step in FIRST_LOOKS:
            at.total = max(at.step, min(self._planned, int(at.step * allowed / at.seconds)))

    def _tell(self, standing: Standing, loss: float) -> None:
        at = self._position
        told = {
            "loss": loss,
            "sparsity": standing.reached,
            "target": standing.target,
            "lambda_1": standing.linear,
            "lambda_2": standing.quadratic,
        }
        if at.step == 1 or at.step * 20 // at.total > (at.step - 1) * 20 // at.total:
            at.history.append({"step": float(at.step), **told})
        message = (
            f"training masks: {standing.reached:.1%} of {standing.cost} gone, {standing.target:.1%} asked, "
            f"multipliers {standing.linear:.2f} and {standing.quadratic:.2f}, loss {loss:.3f}"
        )
        self.reporter.progress(self.stage, at.step, at.total, message, **told)

    def _check(self) -> None:
        try:
            self.reporter.check()
        except Stopped:
            self._save()
            raise

    @contextmanager
    def _at_rest(self, vocabulary: CompactVocabulary | None) -> Iterator[None]:
        """Random numbers go on after it as if nothing had been drawn inside."""
        state = self._random_state()
        with ExitStack() as stack:
            if vocabulary is not None:
                stack.enter_context(vocabulary.expanded())
            yield
        self._set_random_state(state)

    def _save(self) -> None:
        state = {
            "position": asdict(self._position),
            "masks": self.masks.state_dict(),
            "multipliers": self.lagrangian.state_dict(),
            "optimizers": {name: each.state_dict() for name, each in self._optimizers.items()},
            "random": self._random_state(),
        }
        if self.options.weights:
            state["weights"] = self.anatomy.model.state_dict()
        with disk_room("the run's files"):
            partial = self.file.with_name(f".{self.file.name}.part")
            torch.save(state, partial)
            partial.replace(self.file)

    def _restore(self) -> None:
        if not self.file.exists():
            return
        state: dict[str, Any] = torch.load(self.file, map_location="cpu", weights_only=True)
        self._position = Position(**state["position"])
        self.masks.load_state_dict(state["masks"])
        self.lagrangian.load_state_dict(state["multipliers"])
        if self.options.weights:
            self.anatomy.model.load_state_dict(state["weights"])
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self._set_random_state(state["random"])

    def _random_state(self) -> dict[str, torch.Tensor]:
        state = {"cpu": torch.get_rng_state()}
        if self.device.torch_device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device.torch_device)
        return state

    def _set_random_state(self, state: dict[str, torch.Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        if "cuda" in state and self.device.torch_device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self.device.torch_device)
