"""How much an element matters to the task: exact ablation, Fisher information. One file an estimator."""
