"""A search over layers that share their weights: no layer is dropped for bytes that it does not save."""

from __future__ import annotations

import pytest

from models.spec import Recipe
from tests.engine.export_models import tiny_classifier
from tests.engine.strategies.problems import flat, problem
from worker.engine.strategies import STRATEGIES
from worker.engine.strategies.cost_driven import cost_driven
from worker.engine.strategies.goal import Goal


@pytest.mark.parametrize(("ms", "drops"), [(None, False), (3.0, True)])
def test_layers_go_for_time_and_not_for_bytes(ms: float | None, drops: bool) -> None:
    model = tiny_classifier("albert")
    whole = problem(flat, model=model)
    size = whole.costs(whole.anatomy.full_shape()).bytes
    asked = problem(flat, model=model, goal=Goal(ms=ms, bytes=size - 6_000))
    steps = list(cost_driven(asked, None))
    shape = asked.anatomy.full_shape().applied(Recipe.model_validate(steps[-1].state["recipe"]))
    assert asked.goal.met(asked.costs(shape))
    assert (not all(layer.present for layer in shape.layers)) == drops
    present = [layer for layer in shape.layers if layer.present]
    assert len({(layer.heads, layer.channels) for layer in present}) == 1


def test_the_published_search_tries_what_is_shared_once() -> None:
    asked = problem(flat, model=tiny_classifier("albert"), focus="accuracy")
    steps = list(STRATEGIES["axformer"].search(asked, None))
    blocks = {
        step.candidate.recipe.steps[-1].blocks
        for step in steps
        if step.candidate.recipe.steps[-1].approximation == "prune_blocks"
    }
    assert blocks == {("layer.0.ffn",), ("layer.0.attention",)}
