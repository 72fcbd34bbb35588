"""Specs shown in the API's description; a test holds them against the language."""

from __future__ import annotations

from typing import Any

JOB_EXAMPLES: dict[str, Any] = {
    "smaller_and_faster": {
        "summary": "Small and fast on a CPU",
        "value": {
            "name": "sst2-minilm",
            "base_model": {"hub": "sentence-transformers/all-MiniLM-L6-v2"},
            "dataset": {"hub": "nyu-mll/glue", "config": "sst2"},
            "constraints": {
                "accuracy": {"max_relative_drop": 0.01},
                "size": {"min_reduction": 4.0},
                "speed": {"min_speedup": 2.0},
            },
            "focus": "speed",
        },
    },
    "own_files": {
        "summary": "A model and data that were uploaded",
        "value": {
            "name": "tickets",
            "base_model": {"upload": "upl_0190a1b2c3d4e5f60718293a4b5c"},
            "dataset": {
                "upload": "upl_0190a1b2c3d4e5f60718293a4b5d",
                "columns": {"text": "body", "label": "queue"},
            },
            "constraints": {"accuracy": {"max_absolute_drop": 0.005, "confidence": 0.95}},
            "focus": "accuracy",
        },
    },
}
