"""What can go wrong while measuring."""

from __future__ import annotations

from worker.engine.errors import EngineError


class MeasurementError(EngineError):
    """An exported model could not be loaded or run where it was to be measured."""

    code = "measurement_failed"


class RuntimeUnavailable(MeasurementError):
    """The target's runtime or device is not on this machine."""

    code = "runtime_unavailable"
