from __future__ import annotations

from models.spec import PruneHeads, PruneLayers, Recipe
from worker.engine.stages.sizing import TURNS, brought_to


def recipe(removals: int) -> Recipe:
    """A dropped layer, and then so many heads."""
    return Recipe(
        steps=(PruneLayers(layers=(1,)), *(PruneHeads(layer=0, heads=(n,)) for n in range(removals)))
    )


def removals(tried: Recipe) -> int:
    return len(tried.steps) - 1


def test_a_file_that_fits_is_left_alone() -> None:
    timed: list[Recipe] = []

    def clock(tried: Recipe, turn: int) -> float:
        timed.append(tried)
        return 0.97

    assert brought_to(1.0, recipe(3), clock, lambda tried, ms: recipe(9)) == recipe(3)
    assert timed == [recipe(3)]


def test_too_slow_and_too_fast_files_are_corrected_until_they_fit() -> None:
    def clock(tried: Recipe, turn: int) -> float:
        return 1.3 - 0.05 * removals(tried)  # fits with 6 or 7 removals

    def corrected(tried: Recipe, ms: float) -> Recipe:
        return recipe(removals(tried) + (4 if ms > 1.0 else -1))

    assert removals(brought_to(1.0, recipe(4), clock, corrected)) == 7
    assert removals(brought_to(1.0, recipe(2), clock, corrected)) == 6
    assert removals(brought_to(1.0, recipe(8), clock, corrected)) == 7


def test_nothing_more_goes_because_of_a_disturbance() -> None:
    clock = iter([1.4, 0.98])
    tried = brought_to(1.0, recipe(3), lambda tried, turn: next(clock), lambda tried, ms: recipe(9))
    assert tried == recipe(3)


def test_sizing_ends_when_nothing_changes_or_the_turns_are_used_up() -> None:
    turns: list[int] = []

    def slow(tried: Recipe, turn: int) -> float:
        turns.append(turn)
        return 2.0

    assert brought_to(1.0, recipe(2), slow, lambda tried, ms: tried) == recipe(2)
    assert turns == [0, 0]
    assert brought_to(1.0, recipe(0), slow, lambda tried, ms: recipe(removals(tried) + 1)) == recipe(TURNS)


def test_without_time_for_another_timing_the_last_correction_holds() -> None:
    def once(tried: Recipe, turn: int) -> float | None:
        return None if turn else 0.5

    assert removals(brought_to(1.0, recipe(6), once, lambda tried, ms: recipe(2))) == 2
