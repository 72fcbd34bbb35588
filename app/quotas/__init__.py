"""Quotas: what a tenant may have, what it uses, and the refusal of more."""
