"""All tables in one place: importing this module fills `Base.metadata`."""

from models.api_key import ApiKey, Scope
from models.artifact import Artifact
from models.audit import AuditEvent
from models.base import Base
from models.blob import BlobRow, Garbage
from models.candidate import CandidateRow
from models.candidate_export import CandidateExport
from models.checkpoint import Checkpoint
from models.event import Event
from models.idempotency import IdempotencyKey
from models.job import Job, JobStatus
from models.quota import ComputeUse, StoredUse, TenantQuota
from models.shard import Shard, ShardStatus
from models.tally import Tally
from models.upload import JobUpload, Upload, UploadKind
from models.webhook import Webhook, WebhookDelivery

__all__ = [
    "ApiKey",
    "Artifact",
    "AuditEvent",
    "Base",
    "BlobRow",
    "CandidateExport",
    "CandidateRow",
    "Checkpoint",
    "ComputeUse",
    "Event",
    "Garbage",
    "IdempotencyKey",
    "Job",
    "JobStatus",
    "JobUpload",
    "Scope",
    "Shard",
    "ShardStatus",
    "StoredUse",
    "Tally",
    "TenantQuota",
    "Upload",
    "UploadKind",
    "Webhook",
    "WebhookDelivery",
]
