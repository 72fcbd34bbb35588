"""`Client.keys` against a server of its own: the first key shuts its door."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from axforge import Client, ProblemError, SpecError
from tests.sdk.conftest import serving


def test_the_first_key_shuts_the_door_and_a_revoked_one_opens_it_no_more(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        with Client(service.url) as anyone:
            admin = anyone.keys.create("first", ["admin"])
            assert admin.secret is not None
            with pytest.raises(ProblemError) as caught:
                anyone.capabilities()
            assert caught.value.status == 401
        with Client(service.url, admin.secret) as client:
            until = datetime.now(UTC) + timedelta(days=1)
            reader = client.keys.create("reader", ["jobs"], expires_at=until)
            assert reader.secret is not None
            assert client.keys.get(reader.id).expires_at == until
            assert [key.name for key in client.keys.list()] == ["reader", "first"]
            with Client(service.url, reader.secret) as other:
                assert list(other.jobs()) == []
                client.keys.revoke(reader.id)
                with pytest.raises(ProblemError) as caught:
                    list(other.jobs())
                assert caught.value.status == 401
            assert client.keys.get(reader.id).revoked_at is not None
            with pytest.raises(SpecError):
                client.keys.get("../jobs")
