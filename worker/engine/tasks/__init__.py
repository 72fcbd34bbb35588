"""Tasks, one file each, and the registry of those that can be asked for."""

from models.spec import TaskName
from worker.engine.tasks.base import Task
from worker.engine.tasks.causal_lm import CausalLanguageModelling
from worker.engine.tasks.evaluate import Evaluation, evaluate
from worker.engine.tasks.marks import Marks
from worker.engine.tasks.multi_label_classification import MultiLabelClassification
from worker.engine.tasks.multiple_choice import MultipleChoice
from worker.engine.tasks.question_answering import QuestionAnswering
from worker.engine.tasks.regression import Regression
from worker.engine.tasks.rows import Rows
from worker.engine.tasks.scoring import Scorer
from worker.engine.tasks.split import Batch, Split
from worker.engine.tasks.text_classification import TextClassification
from worker.engine.tasks.token_classification import TokenClassification

TASKS: dict[TaskName, Task] = {
    task.name: task
    for task in (
        TextClassification(),
        MultiLabelClassification(),
        Regression(),
        TokenClassification(),
        QuestionAnswering(),
        MultipleChoice(),
        CausalLanguageModelling(),
    )
}

__all__ = ["TASKS", "Batch", "Evaluation", "Marks", "Rows", "Scorer", "Split", "Task", "evaluate"]
