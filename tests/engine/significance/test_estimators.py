"""Taylor, optimal brain surgeon and reconstruction against brute force, on tiny random models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.engine.export_models import tiny_classifier
from worker.engine.anatomy import Anatomy, anatomy_of
from worker.engine.device import Device
from worker.engine.significance.agreement import agreement, reliability, reliability_by_kind
from worker.engine.significance.base import Material
from worker.engine.significance.elements import Element, group_elements, group_size
from worker.engine.significance.fisher import Fisher
from worker.engine.significance.obs import OptimalBrainSurgeon, removal_error, removal_update
from worker.engine.significance.projections import DAMPING, OutputProjection, output_projections
from worker.engine.significance.reconstruction import Reconstruction, residuals
from worker.engine.significance.report import Ablated
from worker.engine.significance.taylor import Taylor
from worker.engine.tasks import TASKS, Split

TASK = TASKS["text-classification"]
ROWS = 20


def ragged(rows: int = ROWS, seed: int = 0) -> Split:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, 12, rows)
    return Split(
        ids=generator.integers(5, 300, int(lengths.sum())),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        labels=generator.integers(0, 3, rows),
        pad_id=0,
    )


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return anatomy_of(tiny_classifier("bert"))


def material(anatomy: Anatomy, rows: Split | None = None, **changes: object) -> Material:
    made = Material(
        anatomy,
        anatomy.full_shape(),
        ragged() if rows is None else rows,
        TASK,
        Device.pick("cpu"),
        batch_size=7,
        precision="fp32",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def small() -> OutputProjection:
    """A projection of five inputs to three outputs, whose inputs depend on each other."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 5, generator=generator, dtype=torch.float64)
    inputs[:, 4] += 0.9 * inputs[:, 0] - 0.5 * inputs[:, 2]
    weight = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    return OutputProjection((0, 1, 2, 3, 4), 1, weight, inputs.T @ inputs / 200)


def least_squares(projection: OutputProjection, gone: list[int]) -> torch.Tensor:
    """The weight without some inputs that is nearest in its outputs, solved directly."""
    size = len(projection.moments)
    damped = projection.moments + DAMPING * projection.moments.diagonal().mean() * torch.eye(
        size, dtype=torch.float64
    )
    kept = [at for at in range(size) if at not in gone]
    solved = torch.zeros_like(projection.weight)
    solved[:, kept] = torch.linalg.solve(damped[kept][:, kept], damped[kept] @ projection.weight.T).T
    return solved


@pytest.mark.parametrize("gone", [[1], [0, 4], [0, 2, 3]])
def test_the_surgeons_update_is_the_least_squares_solution(small: OutputProjection, gone: list[int]) -> None:
    solved = least_squares(small, gone)
    torch.testing.assert_close(removal_update(small, tuple(gone)), solved)
    change = solved - small.weight
    damped = torch.linalg.inv(small.inverse)
    assert removal_error(small, tuple(gone)) == pytest.approx(float(torch.sum((change @ damped) * change)))


def test_removing_everything_costs_the_whole_output(small: OutputProjection) -> None:
    expected = float(torch.trace(small.weight @ small.moments @ small.weight.T))
    assert removal_error(small, small.units) == pytest.approx(expected)


def test_residuals_are_what_regression_on_the_other_inputs_leaves(small: OutputProjection) -> None:
    inputs = torch.randn(50, 5, dtype=torch.float64)
    lost = residuals(small, [(0, 4), (1,), (2, 3)], inputs)
    damped = torch.linalg.inv(small.inverse)
    for gone in ([0, 4], [1], [2, 3]):
        kept = [at for at in range(5) if at not in gone]
        told = torch.linalg.solve(damped[kept][:, kept], damped[kept][:, gone])
        torch.testing.assert_close(lost[:, gone], inputs[:, gone] - inputs[:, kept] @ told)


def test_moments_are_those_of_real_tokens_only(anatomy: Anatomy) -> None:
    rows = ragged()
    together = output_projections(material(anatomy, rows))[0, "ffn"].moments
    alone = sum(
        output_projections(material(anatomy, rows.select(np.array([row]))))[0, "ffn"].moments
        * rows.lengths[row]
        for row in range(len(rows))
    )
    torch.testing.assert_close(together, alone / rows.lengths.sum(), rtol=1e-3, atol=1e-5)


def test_what_the_others_know_as_well_weighs_nothing_after_reconstruction() -> None:
    """Two channels that always do the same: to Fisher each matters, but one can do the work of both."""
    anatomy = anatomy_of(tiny_classifier("bert"))
    part = anatomy.parts[1]
    assert part.ffn_up is not None
    with torch.no_grad():
        part.ffn_up.weight[7] = part.ffn_up.weight[5]
        assert part.ffn_up.bias is not None
        part.ffn_up.bias[7] = part.ffn_up.bias[5]
    given = material(anatomy, ragged(200))
    fisher, rebuilt, surgeon = (
        estimator.weigh(given) for estimator in (Fisher(), Reconstruction(), OptimalBrainSurgeon())
    )
    one, other, both, third = (
        Element("group", 1, channels=channels) for channels in ((5,), (7,), (5, 7), (9,))
    )
    kept = {each: rebuilt.of(each) / fisher.of(each) for each in (one, other, both, third)}
    assert max(kept[one], kept[other]) < 0.02 < min(kept[both], kept[third])
    # Damping alone keeps what one of them costs, with the other there, above nothing.
    assert surgeon.of(both) > 4 * (surgeon.of(one) + surgeon.of(other))
    block = Element("ffn", 1)
    assert rebuilt.of(block) == pytest.approx(fisher.of(block), rel=1e-3)
    groups = [Element("group", 1, channels=tuple(range(at, at + 4))) for at in range(0, 48, 4)]
    assert sum(map(rebuilt.of, groups)) < sum(map(fisher.of, groups))


def test_any_channels_have_a_reconstruction_however_they_are_named(anatomy: Anatomy) -> None:
    """What is asked for late weighs as if it had been asked for with the rest, and each set for itself."""
    given = material(anatomy)
    cut = group_elements(anatomy.full_shape(), 2, group_size(anatomy.channels))[1]
    weights, again = Reconstruction().weigh(given), Reconstruction().weigh(given)
    before = given.tally.token_layers
    assert weights.of(replace(cut, channels=cut.channels[::-1])) == weights.of(cut)
    assert given.tally.token_layers == before
    scattered = Element("group", 2, channels=(40, 3, 17, 18))
    pairs = [Element("group", 2, channels=channels) for channels in ((40, 3), (17, 18))]
    assert again.of(pairs[0]) > 0
    assert weights.of(scattered) == again.of(scattered) != weights.of(pairs[0]) + weights.of(pairs[1])
    assert given.tally.token_layers > before


def test_taylor_is_the_gradient_of_a_gate(anatomy: Anatomy) -> None:
    rows = ragged(6)
    told = Taylor().weigh(material(anatomy, rows))
    element = Element("group", 2, channels=(3, 4, 9))
    gradients = []
    for row in range(len(rows)):
        batch = rows.batch(np.array([row]))
        with anatomy.gated() as gates:
            loss = TASK.losses(anatomy.model(**batch.inputs).logits, batch).sum()
            (channels,) = torch.autograd.grad(loss, (gates.channels,))
        gradients.append(float(channels[2, [3, 4, 9]].sum()))
    assert told.of(element) == pytest.approx(np.mean(np.abs(gradients)), rel=1e-3)
    assert told.signed(element) == pytest.approx(-np.mean(gradients), rel=1e-3)


def test_taylor_signed_is_the_loss_change_of_a_gate_that_closes_a_little(anatomy: Anatomy) -> None:
    rows = ragged(6)
    batch = rows.batch(np.arange(6))
    told = Taylor().weigh(material(anatomy, rows)).signed(Element("head", 1, 2))

    def loss(gate: float) -> float:
        factor = torch.ones(4).index_fill(0, torch.tensor(2), gate).repeat_interleave(8)
        output = anatomy.parts[1].attention_output
        assert output is not None
        hook = output.register_forward_pre_hook(lambda module, args: (args[0] * factor,))
        with torch.no_grad():
            told = float(TASK.losses(anatomy.model(**batch.inputs).logits, batch).mean())
        hook.remove()
        return told

    step = 0.02
    assert told == pytest.approx((loss(1 - step) - loss(1 + step)) / (2 * step), rel=0.05, abs=1e-4)


class TestHowFarAblationStands:
    def test_standard_errors_are_those_of_paired_changes(self) -> None:
        generator = np.random.default_rng(0)
        base = generator.exponential(size=(4000, 50)).astype(np.float32)  # as many drawings of fifty rows
        without = (base + 0.1 + 0.2 * generator.standard_normal(base.shape)).astype(np.float32)
        measured = [Ablated.of(*each) for each in zip(without, base, strict=True)]
        spread = np.std([each.loss - float(np.mean(rows)) for each, rows in zip(measured, base, strict=True)])
        assert np.mean([each.standard_error for each in measured]) == pytest.approx(spread, rel=0.03)
        assert spread == pytest.approx(0.2 / np.sqrt(50), rel=0.05)  # not that of the losses, which is 0.14

    def test_reliability_is_the_part_that_repeats(self) -> None:
        generator = np.random.default_rng(0)
        true = generator.standard_normal(5000)
        errors = np.full(5000, 0.5)
        once, again = (true + errors * generator.standard_normal(5000) for _ in range(2))
        found = reliability(once.tolist(), errors.tolist())
        assert found == pytest.approx(1 / 1.25, abs=0.02)
        assert found == pytest.approx(np.corrcoef(once, again)[0, 1], abs=0.03)  # measured twice
        assert np.corrcoef(once, true)[0, 1] == pytest.approx(np.sqrt(1 / 1.25), abs=0.02)

    def test_ends(self) -> None:
        assert reliability([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]) == 1.0
        assert reliability([1.0, 2.0, 3.0], [9.0, 9.0, 9.0]) == 0.0
        assert reliability([1.0, 1.0, 1.0], [0.1, 0.1, 0.1]) is None
        by_kind = reliability_by_kind(["a", "a", "a", "b"], [1.0, 2.0, 3.0, 9.0], [0.5, 0.5, 0.5, 0.5])
        assert by_kind["a"] == 0.75
        assert by_kind["b"] is None
        assert by_kind["all"] is not None


def test_agreement_of_orders() -> None:
    exact = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    assert agreement(exact, [each**2 for each in exact]) == {
        "spearman": pytest.approx(1.0),
        "kendall": pytest.approx(1.0),
        "least_quarter": 1.0,
    }
    turned = agreement(exact, exact[::-1])
    assert turned["spearman"] == pytest.approx(-1.0)
    assert turned["least_quarter"] == 0.0
    assert agreement(exact, [1.0] * 8)["spearman"] is None
