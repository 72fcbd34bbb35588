"""The documents of the API. They keep fields that this version of the client does not know."""

from axforge._generated import (
    Artifact,
    ArtifactList,
    Candidate,
    CandidateList,
    Capabilities,
    Event,
    EventList,
    Job,
    JobError,
    JobList,
    JobSpec,
    Plan,
    Progress,
    Upload,
)

__all__ = [
    "Artifact",
    "ArtifactList",
    "Candidate",
    "CandidateList",
    "Capabilities",
    "Event",
    "EventList",
    "Job",
    "JobError",
    "JobList",
    "JobSpec",
    "Plan",
    "Progress",
    "Upload",
]
