"""Speed and size focus: give up what costs least significance for what it saves, until the bounds hold.

Two decisions are taken in turn. Depth: layers go one by one, first the one without which the answers stay
nearest to the dense model's. Width: heads, FFN weight groups and blocks go by significance per part of the
missing milliseconds and bytes that they save. Which depth goes with which width cannot be read off one-shot
losses, which favour width however much training recovers: so one *arm* for every depth that can meet
the bounds is narrowed until it does, all arms get the same short training, and the best on the selection
split wins. Three arms, those that drop most layers; where nothing is trained in trials, the next that drops
fewer as well, as long as the one that drops fewest wins.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from models.spec import Candidate, Recipe
from worker.engine.anatomy.shape import Shape
from worker.engine.significance.elements import Element, layer_elements
from worker.engine.strategies.base import Score, SearchProblem, SearchStep, Trials, measured
from worker.engine.strategies.narrowing import narrow, narrowest

FIRST_ARMS = 3  # each costs one short training


def cost_driven(
    problem: SearchProblem, state: dict[str, Any] | None, *, start: Recipe | None = None, number: int = 0
) -> Iterator[SearchStep]:
    """Yield every shape on the way as a candidate; the state's `recipe` is the winning arm's.

    Without a state the search begins at the recipe `start` (None: the dense model), with candidate `number`.
    It ends before candidate `problem.max_candidates`, with the best that it has come to by then.
    """
    search = _Search(problem, state or _initial(start or Recipe(), number))
    yield from search.deepen()
    while search.has_arms_to_try():
        yield from search.narrow_arms()
        yield from search.choose()


class _Search:
    """The phases over one state, of which every step hands out a copy.

    `depths[n]`: the recipe that drops n layers. `arms`: narrowed recipes, with their trial's
    judgement once they had it. `narrowing`: where the arm at work stands.
    """

    def __init__(self, problem: SearchProblem, state: dict[str, Any]) -> None:
        self.problem = problem
        self.full = problem.anatomy.full_shape()
        self.state = copy.deepcopy(state)

    def deepen(self) -> Iterator[SearchStep]:
        """Drop layers until the bounds hold at full width, one layer is left, or dropping does not help.

        A layer that shares its weights with others saves no bytes.
        """
        if not self.state["depths"] and self._may_go_on():
            start = Recipe.model_validate(self.state["recipe"])
            self.state["depths"] = [_json(start)]
            yield self._step(start, self.problem.judge(self.full.applied(start)), "where the search begins")
        while self._may_go_on():
            recipe = Recipe.model_validate(self.state["depths"][-1])
            shape = self.full.applied(recipe)
            layers = [layer for layer in layer_elements(shape) if self._may_go(layer, shape)]
            enough = self.problem.goal.met(self.problem.costs(shape))
            if enough or not layers or all(self._saves_nothing(layer, shape) for layer in layers):
                return
            strayed = {layer.id: self._divergence(layer, shape, layers) for layer in layers}
            least = min(layers, key=lambda layer: strayed[layer.id])
            recipe = recipe.then(least.step())
            self.state["depths"].append(_json(recipe))
            reason = (
                f"of the layers left, {least.id} matters least: without it answers diverge from the dense "
                f"model's by {strayed[least.id]:.4f}"
            )
            yield self._step(recipe, self.problem.judge(self.full.applied(recipe)), reason)

    def _may_go_on(self) -> bool:
        """Whether the job allows another candidate."""
        return bool(self.state["number"] < self.problem.max_candidates)

    def _may_go(self, layer: Element, shape: Shape) -> bool:
        without = layer.removed_from(shape)
        left = any(each.present for each in without.layers)
        return left and self.problem.may("prune_layers") and self.problem.permits(without)

    def _saves_nothing(self, layer: Element, shape: Shape) -> bool:
        costs = self.problem.costs
        return self.problem.goal.progress(costs(shape), costs(layer.removed_from(shape))) <= 0

    def has_arms_to_try(self) -> bool:
        """Whether an arm is left that is worth it, and candidates are."""
        done = {arm["dropped"] for arm in self.state["arms"] if self._tried(arm)}
        return self._may_go_on() and bool(self.state["depths"]) and not done.issuperset(self._arm_depths())

    def narrow_arms(self) -> Iterator[SearchStep]:
        """Narrow each depth that can meet the bounds until it does, or as far as candidates are left."""
        done = {arm["dropped"] for arm in self.state["arms"]}
        for dropped in self._arm_depths():
            if dropped in done:
                continue
            if not self._may_go_on():
                return
            origin = Recipe.model_validate(self.state["depths"][dropped])
            begun = Recipe.model_validate(self.state["narrowing"] or self.state["depths"][dropped])
            for recipe, judgement in narrow(self.problem, begun, origin=origin):
                self.state["narrowing"] = _json(recipe)
                yield self._step(recipe, judgement, "least significance for what it saves")
                if not self._may_go_on():
                    break
            narrowed = self.state["narrowing"] or _json(origin)
            self.state["arms"].append({"dropped": dropped, "recipe": narrowed, "trial": None})
            self.state["narrowing"] = None

    def choose(self) -> Iterator[SearchStep]:
        """Try each arm that has rivals, some together; the best metric wins, then the lower loss."""
        arms = self.state["arms"]
        trials = self.problem.trials if len(arms) > 1 else None
        what = "judged untrained" if trials is None else "trained for a moment"
        while self._may_go_on() and (untried := [arm for arm in arms if not self._tried(arm)]):
            self.problem.tell("trying arms", len(arms) - len(untried) + 1, len(arms))
            batch = untried if self.problem.trials_together else untried[:1]
            batch = batch[: self.problem.max_candidates - self.state["number"]]
            recipes = [Recipe.model_validate(arm["recipe"]) for arm in batch]
            for arm, recipe, score in zip(batch, recipes, self._scored(recipes, trials), strict=True):
                arm["trial"] = {"metric": score.metric, "loss": score.loss}
                self.state["recipe"] = self._best_arm()["recipe"]
                yield self._step(recipe, score, f"arm with {arm['dropped']} layers fewer, {what}")

    def _arm_depths(self) -> list[int]:
        """Numbers of dropped layers worth an arm: the deepest cut first, then ever shallower ones.

        As long as a quarter of their width would meet the bounds, and beyond the first three where trials
        cost little and the last one wins.
        """
        last = len(self.state["depths"]) - 1
        chosen = [last]
        for dropped in range(last - 1, -1, -1):
            shape = self.full.applied(Recipe.model_validate(self.state["depths"][dropped]))
            fits = self.problem.goal.met(self.problem.costs(narrowest(self.problem, shape)))
            if not fits or (len(chosen) >= FIRST_ARMS and not self._wins(chosen)):
                break
            chosen.append(dropped)
        return chosen

    def _wins(self, depths: Sequence[int]) -> bool:
        """Whether all arms of these depths were tried, cheaply, and the best of them is the last."""
        if not self.problem.cheap_trials:
            return False
        tried = [arm for arm in self.state["arms"] if self._tried(arm) and arm["dropped"] in depths]
        return len(tried) == len(depths) and self._best(tried)["dropped"] == depths[-1]

    @staticmethod
    def _tried(arm: dict[str, Any]) -> bool:
        return arm["trial"] is not None

    def _scored(self, recipes: Sequence[Recipe], trials: Trials | None) -> Sequence[Score]:
        """By their trials; an arm that has no rival needs none."""
        if trials is None:
            return [self.problem.judge(self.full.applied(recipe)) for recipe in recipes]
        return trials(recipes)

    def _best_arm(self) -> dict[str, Any]:
        return self._best([arm for arm in self.state["arms"] if self._tried(arm)])

    @staticmethod
    def _best(tried: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return max(tried, key=lambda arm: (arm["trial"]["metric"], -arm["trial"]["loss"]))

    def _nearest_to_bounds(self) -> dict[str, Any]:
        """The recipe to end with before any trial: of what is narrowed and of the depths the first that holds
        the bounds, else the one that misses them least, by the sum of what it misses of each."""
        narrowed = [arm["recipe"] for arm in self.state["arms"]]
        reached: list[dict[str, Any]] = [
            *narrowed,
            *filter(None, [self.state["narrowing"]]),
            *reversed(self.state["depths"]),
        ]

        def missed(recipe: dict[str, Any]) -> float:
            costs = self.problem.costs(self.full.applied(Recipe.model_validate(recipe)))
            return sum(part / costs.of(each) for each, part in self.problem.goal.missing(costs).items())

        return min(reached, key=missed)

    def _step(self, recipe: Recipe, score: Score, reason: str) -> SearchStep:
        shape = self.full.applied(recipe)
        goal, costs = self.problem.goal, self.problem.costs(shape)
        candidate = Candidate(
            number=self.state["number"],
            stage="search",
            recipe=recipe,
            measurements=measured(self.problem, shape, score),
            accepted=goal.met(costs),
            reason=f"{reason}; {goal.told(costs)}",
        )
        self.state["number"] += 1
        if not self._may_go_on() and not any(map(self._tried, self.state["arms"])):
            self.state["recipe"] = self._nearest_to_bounds()
        return SearchStep(candidate, copy.deepcopy(self.state))

    def _divergence(self, layer: Element, shape: Shape, layers: Sequence[Element]) -> float:
        self.problem.tell("weighing layers", layers.index(layer) + 1, len(layers))
        return self.problem.divergence(layer.removed_from(shape))


def _initial(start: Recipe, number: int) -> dict[str, Any]:
    return {"number": number, "recipe": _json(start), "depths": [], "arms": [], "narrowing": None}


def _json(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json")
