"""The optimizer: queue, supervisor, runner, and the engine they drive."""
