"""Idempotency keys: a request that is sent again gets the first answer, and nothing is done twice."""
