from pathlib import Path

import pytest
from pydantic import ValidationError

from models.base import new_id
from models.settings import Settings


def test_defaults_lie_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "BROKER_URL", "STORE_URL"):
        monkeypatch.delenv(f"AXFORGE_{name}", raising=False)
    settings = Settings(data_dir=tmp_path)
    assert settings.database == f"sqlite:///{tmp_path / 'axforge.db'}"
    assert settings.store == tmp_path.as_uri() + "/objects"
    assert settings.broker is None


def test_a_child_process_gets_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.model_validate(
        {
            "data_dir": tmp_path,
            "database_url": "postgresql://u:hidden@h/d",
            "uri_prefixes": ["s3://models/"],
            "allow_paths": True,
            "lease_seconds": 1.5,
        }
    )
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings
    assert "hidden" not in repr(settings)


def test_a_worker_does_not_get_the_key_of_the_webhooks() -> None:
    settings = Settings.model_validate({"secret_key": "hidden" * 6})
    assert "hidden" not in repr(settings) + str(settings.environment())


def test_an_entry_that_allows_nothing_is_told_at_the_start() -> None:
    with pytest.raises(ValidationError, match="neither a host name nor a network"):
        Settings(outbound_allow=("10.0.0.0/33",))


def test_ids_sort_by_time() -> None:
    ids = [new_id("job") for _ in range(3)]
    assert all(len(one) == 32 and one.startswith("job_") for one in ids)
    assert [one[:16] for one in ids] == sorted(one[:16] for one in ids)
