from __future__ import annotations

from pathlib import Path
from typing import Any

from models.spec import PruneHeads, PruneLayers, PruneVocabulary, PruneWeightGroups, Recipe
from tests.engine.stages.crews import spec_of
from worker.engine.reporting import SilentReporter
from worker.engine.run import Run
from worker.engine.stages import widening
from worker.engine.stages.widening import layer_back, shortest_that_fits, widened
from worker.engine.strategies.goal import Costs, Goal

STEPS = (
    PruneHeads(layer=0, heads=(0,)),
    PruneLayers(layers=(1,)),
    PruneHeads(layer=0, heads=(1,)),
    PruneWeightGroups(layer=0, channels=(3,)),
)


def test_widening_takes_back_the_last_removals_but_no_dropped_layer() -> None:
    whole = Recipe(steps=STEPS)
    assert shortest_that_fits(whole, lambda tried: True) == Recipe(steps=STEPS[:2])
    assert shortest_that_fits(whole, lambda tried: len(tried.steps) >= 3) == Recipe(steps=STEPS[:3])
    assert shortest_that_fits(whole, lambda tried: False) == whole


def test_a_smaller_vocabulary_stays() -> None:
    recipe = Recipe(steps=(PruneVocabulary(rows="0-9"), PruneHeads(layer=0, heads=(0,))))
    assert shortest_that_fits(recipe, lambda tried: True) == Recipe(steps=recipe.steps[:1])


def test_the_layer_that_was_dropped_last_comes_back() -> None:
    assert layer_back(Recipe(steps=STEPS)) == (1, Recipe(steps=(STEPS[0], *STEPS[2:])))
    several = Recipe(steps=(PruneLayers(layers=(2, 0)), STEPS[0]))
    assert layer_back(several) == (0, Recipe(steps=(PruneLayers(layers=(2,)), STEPS[0])))
    assert layer_back(Recipe(steps=STEPS[:1])) is None


def test_as_much_of_a_layer_comes_back_as_there_is_room_for(
    sources: dict[str, Any], finished: Path, monkeypatch: Any
) -> None:
    run = Run(spec_of(sources, 1), finished, SilentReporter())
    anatomy = run.anatomy
    # Costs are parameters here, of a tiny model of three layers.
    monkeypatch.setattr(
        widening, "cost_model", lambda run: lambda shape: Costs(float(anatomy.parameters(shape)), 1.0)
    )
    dropped = Recipe(steps=(PruneLayers(layers=(1,)),))

    def parameters(recipe: Recipe) -> int:
        return anatomy.parameters(run.shape(recipe))

    layer = parameters(Recipe()) - parameters(dropped)
    half = widened(run, dropped, Goal(ms=parameters(dropped) + 0.5 * layer))
    assert 0.3 * layer <= parameters(half) - parameters(dropped) <= 0.5 * layer
    kept = run.shape(half).layers[1]
    assert 0 < len(kept.heads) < anatomy.heads
    assert 0 < len(kept.channels) < anatomy.channels
    assert widened(run, dropped, Goal(ms=parameters(Recipe()))) == Recipe()
    assert widened(run, dropped, Goal(ms=parameters(dropped) + 1.0)) == dropped
    # What was removed of the width comes back first.
    narrowed = dropped.then(PruneHeads(layer=0, heads=(0,)))
    assert widened(run, narrowed, Goal(ms=float(parameters(dropped)))) == dropped
