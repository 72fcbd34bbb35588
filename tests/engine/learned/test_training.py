"""Training masks: it comes to what is asked, tells how it stands, ends in time, and goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.engine.learned.deciding import PRUNING
from tests.engine.learned.test_expected_cost import costs_of
from tests.engine.training.conftest import keyword_split, tiny_bert
from worker.engine.anatomy import anatomy_of
from worker.engine.device import Device
from worker.engine.errors import Stopped
from worker.engine.learned import trainer
from worker.engine.learned.expected_cost import Bound
from worker.engine.learned.lagrangian import Lagrangian
from worker.engine.learned.loss import MaskedDistillation
from worker.engine.learned.selection import unit_prices
from worker.engine.learned.soft_amounts import Kept, expected_amounts
from worker.engine.learned.trainer import MaskOptions, MaskTraining, Position
from worker.engine.learned.vib import SHARPEST, Masks
from worker.engine.reporting import SilentReporter, Stage
from worker.engine.tasks import TASKS
from worker.engine.training import DistilOptions, TeacherCache

OPTIONS = MaskOptions(
    weights=True,
    epochs=4,
    batch_size=32,
    learning_rate=1e-3,
    mask_learning_rate=0.1,
    multiplier_learning_rate=0.1,
    kl_weight=1e-5,
    max_grad_norm=1.0,
    weight_decay=0.01,
    max_seconds=None,
    seed=3,
)
TARGET = 0.4  # of the parameters go


class Stopping(SilentReporter):
    """Keeps what it hears, and stops the training at one of its checks."""

    def __init__(self, at: int | None = None) -> None:
        self.told: list[dict[str, float]] = []
        self.messages: list[str] = []
        self._left = at

    def progress(
        self, stage: Stage, step: int, total: int | None = None, message: str = "", **metrics: float
    ) -> None:
        self.told.append({"step": step, **metrics})
        self.messages.append(message)

    def check(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise Stopped


Made = Callable[..., MaskTraining]


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    threads = torch.get_num_threads()
    yield Device.pick("cpu", threads=1)  # matrices this small are slower on two
    torch.set_num_threads(threads)


@pytest.fixture
def made(device: Device, tmp_path: Path) -> Made:
    """A new training, with the same beginning each time."""
    train = keyword_split(320, 1)

    def make(reporter: SilentReporter | None = None, file: str = "a.pt", **changes: object) -> MaskTraining:
        dense, anatomy = tiny_bert(), anatomy_of(tiny_bert())
        masks = Masks(anatomy, PRUNING, seed=0)
        whole = float(anatomy.parameters(anatomy.full_shape()))
        cache = TeacherCache(dense, train, range(anatomy.layers), device=device)
        return MaskTraining(
            anatomy,
            masks,
            Lagrangian([Bound("parameters", (1 - TARGET) * whole, whole)], warm_up=0.3),
            costs_of(anatomy),
            unit_prices(anatomy),
            MaskedDistillation(anatomy, masks, cache, TASKS["text-classification"], DistilOptions(), device),
            train,
            replace(OPTIONS, **changes),  # type: ignore[arg-type]
            device,
            reporter or SilentReporter(),
            tmp_path / file,
        )

    return make


def finish(training: MaskTraining) -> Position:
    return list(training.run())[-1]


@pytest.mark.parametrize("weights", [True, False])
def test_it_comes_to_what_is_asked_and_tells_how_it_stands(made: Made, weights: bool) -> None:
    reporter = Stopping()
    training = made(reporter, weights=weights, epochs=10)
    before = {name: value.clone() for name, value in training.anatomy.model.state_dict().items()}
    position = finish(training)
    anatomy = training.anatomy
    kept = expected_amounts(anatomy, Kept(training.masks, SHARPEST))
    gone = 1 - float(costs_of(anatomy).of("parameters", kept).detach()) / anatomy.parameters(
        anatomy.full_shape()
    )
    assert gone == pytest.approx(TARGET, abs=0.05)
    assert position.step == position.total == len(reporter.told) == 100
    last = reporter.told[-1]
    assert last["sparsity"] == pytest.approx(gone, abs=0.05)
    assert last["target"] == TARGET
    assert {"loss", "lambda_1", "lambda_2"} <= last.keys()
    assert "multipliers" in reporter.messages[-1]
    assert len(position.history) >= 20
    changed = [
        name for name, value in anatomy.model.state_dict().items() if not torch.equal(value, before[name])
    ]
    assert bool(changed) == weights


@pytest.mark.parametrize("weights", [True, False])
def test_a_killed_training_goes_on_to_the_same_masks_and_weights(made: Made, weights: bool) -> None:
    whole = made(weights=weights)
    positions = [replace(position) for position in whole.run()]
    assert [round(position.progress, 2) for position in positions] == [0.25, 0.5, 0.75, 1.0]
    kills = (7, 12, 1)
    for at in kills:
        with pytest.raises(Stopped):
            finish(made(Stopping(at), "b.pt", weights=weights))
    resumed = made(None, "b.pt", weights=weights)
    last = finish(resumed)
    assert last.step == positions[-1].step == 40
    for name, value in whole.masks.state_dict().items():
        assert torch.equal(value, resumed.masks.state_dict()[name]), name
    for name, value in whole.lagrangian.state_dict().items():
        assert torch.equal(value, resumed.lagrangian.state_dict()[name]), name
    for name, value in whole.anatomy.model.state_dict().items():
        assert torch.equal(value, resumed.anatomy.model.state_dict()[name]), name


def test_what_the_caller_draws_between_changes_nothing(made: Made) -> None:
    whole, disturbed = made(), made(file="b.pt")
    finish(whole)
    for _ in disturbed.run():
        torch.rand(7)
    for name, value in whole.masks.state_dict().items():
        assert torch.equal(value, disturbed.masks.state_dict()[name]), name


def test_it_ends_in_time_with_the_target_risen(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def monotonic() -> float:
        clock[0] += 0.5
        return clock[0]

    monkeypatch.setattr(trainer.time, "monotonic", monotonic)
    reporter = Stopping()
    position = finish(made(reporter, epochs=1000, max_seconds=40.0))
    # A step takes half a second by this clock.
    assert 60 <= position.step <= 80
    assert position.step == position.total
    assert reporter.told[-1]["target"] == TARGET


def test_a_checkpoint_is_written_on_the_way(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    training = made()
    steps = training.run()
    next(steps)
    state = torch.load(training.file, weights_only=True)
    assert state["position"]["step"] == 10
    assert set(state) == {"position", "masks", "multipliers", "optimizers", "random", "weights"}
    steps.close()
