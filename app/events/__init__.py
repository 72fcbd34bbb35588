"""Events: what happened to a job, as a list and as a stream."""
