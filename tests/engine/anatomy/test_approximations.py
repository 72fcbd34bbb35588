"""The registry of approximations agrees with the job language and with what the service tells."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import models.spec as spec
from app.capabilities.catalogue import APPROXIMATIONS as TOLD
from models.spec.job import ApproximationName
from worker.engine.approximations import APPROXIMATIONS, STRUCTURAL


def test_every_approximation_of_the_job_language_is_there() -> None:
    assert set(APPROXIMATIONS) == set(get_args(ApproximationName)) == set(spec.APPROXIMATIONS)


def test_names_are_those_of_the_steps() -> None:
    for name, approximation in APPROXIMATIONS.items():
        assert approximation.name == name
        assert approximation.step.model_fields["approximation"].default == name
        assert approximation.structural == (name in STRUCTURAL)


def test_the_service_tells_the_same() -> None:
    for name, approximation in APPROXIMATIONS.items():
        assert TOLD[name].step is approximation.step
        assert set(TOLD[name].runtimes) == set(approximation.runtimes)
        assert ("size" in TOLD[name].gains) == approximation.changes_size
        assert ("speed" in TOLD[name].gains) == approximation.changes_speed


def test_anatomies_import_without_onnx() -> None:
    program = (
        "import sys, worker.engine.anatomy.slicing, worker.engine.export.safetensors\n"
        "assert not {'onnx', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
