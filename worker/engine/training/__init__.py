"""Fine-tuning the dense model, and recovering the approximated one by distillation."""

from worker.engine.training.augmentation import augmented
from worker.engine.training.distil import distil, matched_layers, recovery_learning_rate
from worker.engine.training.fine_tune import fine_tune
from worker.engine.training.options import DistilOptions, EpochRecord, FitOptions, FitResult
from worker.engine.training.teacher import TeacherCache

__all__ = [
    "DistilOptions",
    "EpochRecord",
    "FitOptions",
    "FitResult",
    "TeacherCache",
    "augmented",
    "distil",
    "fine_tune",
    "matched_layers",
    "recovery_learning_rate",
]
