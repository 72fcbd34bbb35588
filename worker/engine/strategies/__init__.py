"""How decisions are searched: one strategy a file, and the registry of them."""

from models.spec import StrategyName
from worker.engine.strategies.auto import Auto
from worker.engine.strategies.axformer import AxFormer
from worker.engine.strategies.base import Strategy
from worker.engine.strategies.vtrans import FasterVTrans, FastVTrans, VTrans

STRATEGIES: dict[StrategyName, Strategy] = {
    "axformer": AxFormer(),
    "auto": Auto(),
    "vtrans": VTrans(),
    "fast-vtrans": FastVTrans(),
    "faster-vtrans": FasterVTrans(),
}

__all__ = ["STRATEGIES", "Strategy"]
