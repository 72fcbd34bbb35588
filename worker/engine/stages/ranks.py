"""Lower ranks to try on the dense model, after its vocabulary: of the word embedding, and of FFN matrices.

The rank of the table is chosen where rows alone are not enough, and, where nothing is asked of speed, that
of the FFN matrices.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from models.spec import LowRankEmbeddings, LowRankFfn
from worker.engine.approximations.quantize import BLOCK_SIZES
from worker.engine.delivery import Delivered
from worker.engine.measure.verdict import allowed_drop
from worker.engine.run import Run
from worker.engine.stages.vocabulary import SMALL, Table, too_large

RANKS = (0.5, 1 / 3)
"""Of the matrices' width, rounded down to whole int4 blocks; for tables and for FFN matrices."""


def wants_lower_rank(run: Run, best: Delivered, dense_bytes: int) -> bool:
    """Whether rank should go as well, after rows: as `wants_smaller_table`, but never for nothing.

    Rank costs accuracy on every text. Without a bound on accuracy only a bound on size is worth that.
    """
    bounded = allowed_drop(run.spec.constraints.accuracy, best.metric) < inf
    return (run.spec.focus in SMALL and bounded) or too_large(run, best, dense_bytes)


def lower_ranks(run: Run, name: str, table: Table) -> dict[str, Table]:
    """`table`, called `name`, at lower ranks to try, by name; empty where the job does not allow it."""
    if "low_rank_embeddings" not in run.spec.approximations:
        return {}
    ranks = _ranks(run.dense.anatomy.embedding_width)
    starts = {rank: table.start.then(LowRankEmbeddings(rank=rank)) for rank in ranks}
    return {f"{name}-rank-{rank}": replace(table, start=start) for rank, start in starts.items()}


def thinner_ffn(run: Run, name: str, table: Table) -> dict[str, Table]:
    """`table`, called `name`, with FFN matrices of low rank in every layer, by name.

    Empty where the job does not want it.
    """
    if not run.may_thin_ffn:
        return {}
    layers = range(table.origin.anatomy.layers)
    starts = {
        rank: table.start.then(*(LowRankFfn(layer=layer, rank=rank) for layer in layers))
        for rank in _ranks(run.dense.anatomy.hidden_size)
    }
    return {f"{name}-ffn-{rank}": replace(table, start=start) for rank, start in starts.items()}


def _ranks(width: int) -> list[int]:
    block = BLOCK_SIZES[-1]
    ranks = (int(share * width) // block * block for share in RANKS)
    return [rank for rank in ranks if rank]
