"""A recipe in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from models.spec import (
    HardAttention,
    LearnMasks,
    LowRankEmbeddings,
    LowRankFfn,
    PruneBlocks,
    PruneHeads,
    PruneHidden,
    PruneLayers,
    PruneVocabulary,
    PruneWeightGroups,
    Quantize,
    Recipe,
    Reconstruct,
    Recover,
    SignMatchingAttention,
    Step,
)
from models.spec.ranges import from_ranges


def summary(recipe: Recipe) -> str:
    """What the recipe does, steps of one kind told together: "layer 4 removed; 31 heads removed; int8"."""
    kinds: dict[str, list[Step]] = {}
    for step in recipe.steps:
        kinds.setdefault(step.approximation, []).append(step)
    return "; ".join(_told(steps) for steps in kinds.values()) or "nothing changed"


def _told(steps: Sequence[Step]) -> str:
    teller = _TELLERS.get(steps[0].approximation)
    # A kind of step that has no words yet is told by its own name.
    return teller(steps) if teller else _many(steps[0].approximation.replace("_", " "), len(steps))


def _layers(steps: Sequence[PruneLayers]) -> str:
    gone = sorted(layer for step in steps for layer in step.layers)
    return f"{'layer' if len(gone) == 1 else 'layers'} {_numbers(gone)} removed"


def _blocks(steps: Sequence[PruneBlocks]) -> str:
    gone = [block.removeprefix("layer.") for step in steps for block in step.blocks]
    names = [f"{kind} of layer {layer}" for layer, _, kind in (name.partition(".") for name in gone)]
    return f"{', '.join(names)} removed"


def _heads(steps: Sequence[PruneHeads]) -> str:
    count = len({(step.layer, head) for step in steps for head in step.heads})
    return f"{_many('head', count, 'heads')} removed"


def _channels(steps: Sequence[PruneWeightGroups]) -> str:
    count = len({(step.layer, channel) for step in steps for channel in step.channels})
    return f"{count:,} FFN channels removed"


def _rows(steps: Sequence[PruneVocabulary]) -> str:
    return f"vocabulary cut to {len(from_ranges(steps[-1].rows)):,} rows"


def _embeddings(steps: Sequence[LowRankEmbeddings]) -> str:
    return f"word embeddings of rank {steps[-1].rank}"


def _ffn(steps: Sequence[LowRankFfn]) -> str:
    ranks = sorted({step.rank for step in steps})
    return f"FFN of rank {_numbers(ranks)} in layers {_numbers(sorted({step.layer for step in steps}))}"


def _hidden(steps: Sequence[PruneHidden]) -> str:
    count = len({dimension for step in steps for dimension in from_ranges(step.dimensions)})
    return f"{count:,} hidden dimensions removed"


def _hard(steps: Sequence[HardAttention]) -> str:
    return f"hard attention in layers {_numbers(sorted({step.layer for step in steps}))}"


def _signs(steps: Sequence[SignMatchingAttention]) -> str:
    return f"sign matching in layers {_numbers(sorted({step.layer for step in steps}))}"


def _quantized(steps: Sequence[Quantize]) -> str:
    last = steps[-1]
    return (
        last.weights if last.embeddings == last.weights else f"{last.weights}, embeddings {last.embeddings}"
    )


def _recovered(steps: Sequence[Recover]) -> str:
    return f"distilled for {_many('pass', sum(step.epochs for step in steps), 'passes')}"


def _learned(steps: Sequence[LearnMasks]) -> str:
    trained = "masks and weights" if any(step.weights for step in steps) else "masks"
    return f"{trained} trained for {sum(step.steps for step in steps):,} steps"


def _reconstructed(steps: Sequence[Reconstruct]) -> str:
    return f"output projections solved anew on {steps[-1].rows:,} rows"


def _numbers(values: Sequence[int]) -> str:
    """Ascending numbers, runs joined: "0-2, 5"."""
    runs = [
        [value for _, value in run]
        for _, run in groupby(enumerate(values), key=lambda placed: placed[1] - placed[0])
    ]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _many(word: str, count: int, plural: str | None = None) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {plural or word}"


_TELLERS: dict[str, Callable[..., str]] = {
    "prune_layers": _layers,
    "prune_blocks": _blocks,
    "prune_heads": _heads,
    "prune_weight_groups": _channels,
    "prune_vocabulary": _rows,
    "low_rank_embeddings": _embeddings,
    "low_rank_ffn": _ffn,
    "prune_hidden": _hidden,
    "hard_attention": _hard,
    "sign_matching_attention": _signs,
    "quantize": _quantized,
    "recover": _recovered,
    "learn_masks": _learned,
    "reconstruct": _reconstructed,
}
