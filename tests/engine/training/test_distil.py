from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.engine.training.conftest import CLASSES, Keywords, tiny_bert
from worker.engine.anatomy import LayerShape, Shape, anatomy_of
from worker.engine.anatomy.slicing import sliced
from worker.engine.tasks import evaluate
from worker.engine.tasks.losses import soft_loss
from worker.engine.training import (
    DistilOptions,
    FitOptions,
    TeacherCache,
    distil,
    fine_tune,
    matched_layers,
    recovery_learning_rate,
)
from worker.engine.training.fine_tune import default_learning_rate

QUICK = DistilOptions(epochs=4, learning_rate=3e-3, precision="fp32", patience=None)


@pytest.fixture(scope="module")
def teacher(keywords: Keywords) -> torch.nn.Module:
    model = tiny_bert(layers=4)
    result = fine_tune(
        model,
        *keywords.parts,
        FitOptions(epochs=6, learning_rate=3e-3, precision="fp32"),
        device=keywords.device,
    )
    assert result.best_metric > 0.95
    return model


def half(teacher: torch.nn.Module, present: tuple[bool, ...] = (True, False, True, False)) -> torch.nn.Module:
    """Half the layers, heads and channels of the teacher."""
    layers = tuple(LayerShape((0, 2), tuple(range(0, 64, 2)), present=kept) for kept in present)
    return sliced(teacher, Shape(layers))


def test_a_student_that_lost_more_takes_larger_steps(teacher: torch.nn.Module) -> None:
    of_training = default_learning_rate(teacher)
    rates = [recovery_learning_rate(teacher, removed) / of_training for removed in (0.0, 0.25, 0.5, 1.0)]
    assert rates == pytest.approx([1.0, 1.25, 1.5, 2.0])
    assert recovery_learning_rate(teacher) == recovery_learning_rate(teacher, 1.0)


def test_recovers_what_slicing_lost(teacher: torch.nn.Module, keywords: Keywords) -> None:
    student = half(teacher)
    arguments = {"batch_size": 64, "device": keywords.device}
    lost = evaluate(student, keywords.selection, keywords.task, **arguments)
    result = distil(student, teacher, *keywords.parts, QUICK, device=keywords.device)
    recovered = evaluate(student, keywords.selection, keywords.task, **arguments)
    assert recovered.loss == pytest.approx(result.best_loss, abs=1e-6)
    assert recovered.metrics["accuracy"] > 0.95 > lost.metrics["accuracy"]


def test_the_teacher_is_not_changed(teacher: torch.nn.Module, keywords: Keywords) -> None:
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    distil(half(teacher), teacher, *keywords.parts, replace(QUICK, epochs=1), device=keywords.device)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_a_cache_serves_as_the_teacher_does(teacher: torch.nn.Module, keywords: Keywords) -> None:
    options = replace(QUICK, epochs=1)
    first, second = half(teacher), half(teacher)
    cache = TeacherCache(
        teacher, keywords.train, matched_layers(first), device=keywords.device, precision="fp32"
    )
    distil(first, cache, *keywords.parts, options, device=keywords.device)
    distil(second, teacher, *keywords.parts, options, device=keywords.device)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_hidden_states_are_drawn_to_the_teacher_s(teacher: torch.nn.Module, keywords: Keywords) -> None:
    """With the hidden part alone, the last state comes closer to the dense model's."""
    batch = keywords.selection.batch(np.arange(50)).inputs
    student = half(teacher)

    def distance() -> float:
        with torch.no_grad():
            held = student(**batch, output_hidden_states=True).hidden_states[-1]
            wanted = teacher(**batch, output_hidden_states=True).hidden_states[-1]
        return float((held - wanted)[batch["attention_mask"].bool()].square().mean())

    before = distance()
    options = replace(QUICK, soft=0.0, hard=0.0, hidden=1.0)
    distil(student, teacher, *keywords.parts, options, device=keywords.device)
    assert distance() < 0.5 * before


def test_a_narrower_student_is_drawn_to_the_dimensions_that_it_has(
    teacher: torch.nn.Module, keywords: Keywords
) -> None:
    batch = keywords.selection.batch(np.arange(50)).inputs
    shape = anatomy_of(teacher).full_shape()
    gone = (*range(0, 32, 4), 30)
    student = sliced(teacher, replace(shape, hidden_gone=gone))
    kept = [index for index in range(32) if index not in gone]

    def distances() -> list[float]:
        """Of the last states to the teacher's in those dimensions, and in as many others."""
        with torch.no_grad():
            held = student(**batch, output_hidden_states=True).hidden_states[-1]
            wanted = teacher(**batch, output_hidden_states=True).hidden_states[-1]
        real = batch["attention_mask"].bool()
        assert held.shape[-1] == len(kept)
        return [
            float((held - wanted[..., which])[real].square().mean())
            for which in (kept, list(range(len(kept))))
        ]

    before = distances()
    options = replace(QUICK, soft=0.0, hard=0.0, hidden=1.0)
    distil(student, teacher, *keywords.parts, options, device=keywords.device)
    after = distances()
    assert after[0] < 0.5 * before[0]
    assert after[0] < 0.5 * after[1]


@pytest.mark.parametrize(
    ("present", "matched"),
    [
        ((True, True, True, True), [0, 1, 2, 3]),
        ((True, False, True, False), [1, 3]),
        ((False, True, False, False), [3]),
        ((False, False, False, False), []),
    ],
)
def test_each_layer_answers_for_those_removed_after_it(
    teacher: torch.nn.Module, present: tuple[bool, ...], matched: list[int]
) -> None:
    assert matched_layers(half(teacher, present)) == matched


def test_a_student_without_layers_still_learns(teacher: torch.nn.Module, keywords: Keywords) -> None:
    student = half(teacher, (False,) * 4)
    assert not any(layer.present for layer in anatomy_of(student).full_shape().layers)
    result = distil(student, teacher, *keywords.parts, replace(QUICK, epochs=1), device=keywords.device)
    assert np.isfinite(result.best_loss)


def test_cache_holds_what_the_teacher_answers_within_its_bounds(
    teacher: torch.nn.Module, keywords: Keywords
) -> None:
    split = keywords.selection
    per_layer = len(split.ids) * 32 * 2
    cache = TeacherCache(
        teacher, split, [0, 1, 3], device=keywords.device, precision="fp32", max_bytes=2 * per_layer
    )
    assert cache.layers == [1, 3]
    expected = evaluate(teacher, split, keywords.task, batch_size=64, device=keywords.device)
    everything = cache.answers(split.batch(np.arange(len(split))))
    np.testing.assert_allclose(everything.logits.numpy(), expected.logits, atol=1e-6)
    with torch.no_grad():
        output = teacher(**split.batch(np.array([7])).inputs, output_hidden_states=True)
    held = cache.answers(split.batch(np.array([7]))).hidden[3]
    np.testing.assert_allclose(held.float().numpy(), output.hidden_states[4][0].numpy(), atol=2e-2)


def test_the_teacher_works_each_row_out_once_and_only_when_asked(
    teacher: torch.nn.Module, keywords: Keywords
) -> None:
    asked: list[int] = []
    watch = teacher.register_forward_pre_hook(
        lambda module, positional, named: asked.append(len(named["input_ids"])), with_kwargs=True
    )
    cache = TeacherCache(teacher, keywords.selection, [], device=keywords.device, precision="fp32")
    assert asked == []
    first = cache.answers(keywords.selection.batch(np.array([5, 2]))).logits
    again = cache.answers(keywords.selection.batch(np.array([2, 9, 5]))).logits
    watch.remove()
    assert asked == [2, 1]
    assert torch.equal(again[[2, 0]], first)


def test_soft_loss_is_zero_only_at_the_teacher() -> None:
    logits = torch.randn(5, CLASSES)
    assert float(soft_loss(logits, logits, 2.0)) == pytest.approx(0.0, abs=1e-6)
    assert float(soft_loss(torch.zeros(5, CLASSES), logits, 2.0)) > 0.01


def test_soft_loss_against_the_formula() -> None:
    student, teacher, t = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]), 2.0
    p = np.exp(1) / (np.exp(1) + 1)
    divergence = p * np.log(p / 0.5) + (1 - p) * np.log((1 - p) / 0.5)
    assert float(soft_loss(student, teacher, t)) == pytest.approx(t**2 * divergence, rel=1e-6)
