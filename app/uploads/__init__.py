"""Uploads: models and data sets that users bring."""
