"""Tasks, one file each, and the registry of those that can be asked for."""

from worker.engine.tasks.base import Task
from worker.engine.tasks.evaluate import Evaluation, evaluate
from worker.engine.tasks.rows import Rows
from worker.engine.tasks.split import Batch, Split
from worker.engine.tasks.text_classification import TextClassification

TASKS: dict[str, Task] = {task.name: task for task in (TextClassification(),)}

__all__ = ["TASKS", "Batch", "Evaluation", "Rows", "Split", "Task", "TextClassification", "evaluate"]
