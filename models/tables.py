"""All tables in one place: importing this module fills `Base.metadata`."""

from models.artifact import Artifact
from models.base import Base
from models.candidate import CandidateRow
from models.checkpoint import Checkpoint
from models.event import Event
from models.idempotency import IdempotencyKey
from models.job import Job, JobStatus
from models.upload import Upload, UploadKind

__all__ = [
    "Artifact",
    "Base",
    "CandidateRow",
    "Checkpoint",
    "Event",
    "IdempotencyKey",
    "Job",
    "JobStatus",
    "Upload",
    "UploadKind",
]
