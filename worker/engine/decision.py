"""What was decided for the user: a job's spec as it is carried out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.spec import NATIVE_APPROXIMATIONS, JobSpec


@dataclass(frozen=True)
class Decision:
    """`recovery`: what strategy `auto` put in the place of the spec's, None for what was asked.

    `notes` tell the user why, in sentences.
    """

    recovery: str | None = None
    notes: tuple[str, ...] = ()

    @staticmethod
    def from_json(document: dict[str, Any] | None) -> Decision:
        """The inverse of `to_json`; of None, that nothing was decided."""
        return Decision() if document is None else Decision(document["recovery"], tuple(document["notes"]))

    def to_json(self) -> dict[str, Any]:
        return {"recovery": self.recovery, "notes": list(self.notes)}

    def applied(self, asked: JobSpec) -> JobSpec:
        """The spec with what was decided, and without approximations that its constraints forbid."""
        changes: dict[str, Any] = {} if self.recovery is None else {"recovery": self.recovery}
        if asked.constraints.loadable == "native":
            changes["approximations"] = [one for one in asked.approximations if one in NATIVE_APPROXIMATIONS]
        return JobSpec.model_validate(asked.model_dump() | changes) if changes else asked
