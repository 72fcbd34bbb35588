"""All estimators by their names, in the order in which they are reported."""

from __future__ import annotations

from models.spec import EstimatorName
from worker.engine.significance.ablation import Ablation
from worker.engine.significance.base import Estimator
from worker.engine.significance.fisher import Fisher
from worker.engine.significance.obs import OptimalBrainSurgeon
from worker.engine.significance.reconstruction import Reconstruction
from worker.engine.significance.taylor import Taylor

ESTIMATORS: dict[EstimatorName, Estimator] = {
    estimator.name: estimator
    for estimator in (Ablation(), Fisher(), Taylor(), OptimalBrainSurgeon(), Reconstruction())
}
