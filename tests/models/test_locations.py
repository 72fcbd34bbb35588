"""Object URIs of jobs: only what the operator listed, and nothing of other users."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.locations import OWN_FOLDERS, Location, locate

PREFIXES = ("s3://models/", "gs://data/public", "az://whole", "file:///etc", "http://example.com/")


@pytest.mark.parametrize(
    ("uri", "location"),
    [
        ("store://models/tiny", Location(None, "models/tiny")),
        ("store://one", Location(None, "one")),
        ("s3://models/a/b.csv", Location("s3://models", "a/b.csv")),
        ("s3://models", Location("s3://models", "")),
        ("gs://data/public/", Location("gs://data", "public")),
        ("gs://data/public/a", Location("gs://data", "public/a")),
        ("az://whole/a", Location("az://whole", "a")),
    ],
)
def test_what_jobs_may_read(uri: str, location: Location) -> None:
    assert locate(uri, PREFIXES) == location


@pytest.mark.parametrize(
    "uri",
    [
        "store://",
        "store:///",
        "store:///models",
        "store://sha256/00",
        "store://SHA256/00",
        "store://checkpoint/job_1",
        "store://./sha256/00",
        "store://a/../sha256/00",
        "store://a//sha256",
        "store://%73ha256/00",
        "store://a\\..\\sha256",
        "store://..",
        "s3://models-of-others/a",
        "s3://models@evil.example.com/a",
        "s3://models:9000/a",
        "s3://models/../others",
        "s3://models/%2e%2e/others",
        "s3://Models/a",
        "S3://models/a",
        "gs://data/publicity",
        "gs://data",
        "gs://models/a",
        "abfs://whole@account.dfs.core.windows.net/a",
        "file:///etc/passwd",
        "http://example.com/a",
        "https://example.com/a",
        "/etc/passwd",
        "s3:/models/a",
    ],
)
def test_what_jobs_may_not_read(uri: str) -> None:
    assert locate(uri, PREFIXES) is None


@given(st.text(alphabet="./%\\sh256acekpointSTORE:", max_size=30))
def test_no_spelling_leads_into_the_services_own_folders(rest: str) -> None:
    location = locate(f"store://{rest}", ())
    if location is not None:
        first = location.key.split("/")[0]
        assert first.casefold() not in OWN_FOLDERS
        assert not {"", ".", ".."} & set(location.key.split("/"))
        assert "%" not in location.key
