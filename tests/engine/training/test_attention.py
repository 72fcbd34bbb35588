from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.engine.training.conftest import Keywords, tiny_bert
from worker.engine.anatomy import LayerShape, Shape, anatomy_of
from worker.engine.anatomy.slicing import sliced
from worker.engine.training import DistilOptions, TeacherCache, distil
from worker.engine.training.attention import attention_distance, noted_queries
from worker.engine.training.distil import matched_attention

HEAD_SIZE = 8


def test_queries_and_keys_make_the_model_s_own_maps(keywords: Keywords) -> None:
    model = tiny_bert()
    model.set_attn_implementation("eager")
    batch = keywords.selection.batch(np.arange(4))
    with torch.no_grad(), noted_queries(anatomy_of(model), [1]) as noted:
        maps = model(**batch.inputs, output_attentions=True).attentions[1]
    assert set(noted) == {1}
    query, key = (noted[1][name].unflatten(-1, (-1, HEAD_SIZE)).transpose(1, 2) for name in ("query", "key"))
    scores = (query @ key.transpose(-1, -2) * HEAD_SIZE**-0.5).masked_fill(
        ~batch.mask[:, None, None, :], float("-inf")
    )
    torch.testing.assert_close(scores.softmax(-1), maps, atol=1e-6, rtol=1e-5)


def test_distance_against_the_formula() -> None:
    """One head, one query of two keys; the third is padding."""
    mask = torch.tensor([[True, True, False]])
    keys = torch.tensor([[[1.0], [0.0], [9.0]]])
    teacher, student = (torch.stack([torch.full((1, 3, 1), query), keys]) for query in (1.0, 2.0))
    p, q = (np.exp(query) / (np.exp(query) + 1) for query in (1.0, 2.0))
    divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    measured = float(attention_distance(student, teacher, mask, 1))
    assert measured == pytest.approx(divergence, rel=1e-5)
    assert float(attention_distance(teacher, teacher, mask, 1)) == pytest.approx(0.0, abs=1e-7)


def test_maps_of_the_heads_that_are_left_are_drawn_to_the_teacher_s(keywords: Keywords) -> None:
    teacher = tiny_bert(layers=3)
    with torch.no_grad():  # scores of random weights hardly differ from each other
        for part in anatomy_of(teacher).parts:
            part.by_head["query"].weight.mul_(4.0)
    layers = (LayerShape((1, 3), tuple(range(16))), LayerShape((), (), present=False), LayerShape((2,), (0,)))
    student = sliced(teacher, Shape(layers))
    assert matched_attention(student) == {0: (1, 3), 2: (2,)}
    with torch.no_grad():
        for part in anatomy_of(student).parts:
            part.by_head["key"].weight.add_(0.3 * torch.randn_like(part.by_head["key"].weight))
    batch = keywords.selection.batch(np.arange(50))

    def distance(layer: int, heads: tuple[int, ...]) -> float:
        with torch.no_grad(), noted_queries(anatomy_of(student), [layer]) as mine:
            student(**batch.inputs)
        with torch.no_grad(), noted_queries(anatomy_of(teacher), [layer]) as theirs:
            teacher(**batch.inputs)
        channels = [head * HEAD_SIZE + at for head in heads for at in range(HEAD_SIZE)]
        pairs = (
            torch.stack([mine[layer][name] for name in ("query", "key")]),
            torch.stack([theirs[layer][name][..., channels] for name in ("query", "key")]),
        )
        return float(attention_distance(*pairs, batch.mask, HEAD_SIZE))

    before = distance(0, (1, 3)), distance(2, (2,))
    options = DistilOptions(
        epochs=3,
        learning_rate=3e-3,
        precision="fp32",
        patience=None,
        soft=0.0,
        hard=0.0,
        hidden=0.0,
        attention=1.0,
    )
    distil(student, teacher, *keywords.parts, options, device=keywords.device)
    assert distance(0, (1, 3)) < 0.5 * before[0]
    assert distance(2, (2,)) < 0.7 * before[1]


def test_a_cache_without_maps_leaves_them_out(keywords: Keywords) -> None:
    teacher = tiny_bert()
    cache = TeacherCache(teacher, keywords.train, [1], device=keywords.device, precision="fp32")
    options = DistilOptions(epochs=1, learning_rate=1e-3, precision="fp32")
    students = [tiny_bert(seed=1), tiny_bert(seed=1)]
    for student, weight in zip(students, (0.0, 1.0), strict=True):
        distil(student, cache, *keywords.parts, replace(options, attention=weight), device=keywords.device)
    for one, other in zip(students[0].parameters(), students[1].parameters(), strict=True):
        assert torch.equal(one, other)
