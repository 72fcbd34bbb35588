"""The life of a job's shares: taken, helped with, lost, refused, given up."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from models import lifecycle, quotas, retention, shards
from models.base import utc_now
from models.database import Database
from models.job import JobStatus
from models.lifecycle import JobError, LeaseLost
from models.retention import Keeping
from models.shards import MOST_FAILURES, ClaimedShard
from models.spec import JobSpec
from models.tables import ComputeUse, Job, Shard, ShardStatus

LEASE = 60.0
STAGE = "analyse"
PAYLOADS = [{"elements": [str(number)]} for number in range(3)]


def run_of(session: Session, spec: JobSpec, tenant: str = "default") -> str:
    job = lifecycle.create(session, spec, tenant=tenant)
    assert lifecycle.claim_one(session, job.id, "parent", LEASE) is not None
    return job.id


def offer(
    database: Database, spec: JobSpec, payloads: Sequence[dict[str, Any]] = PAYLOADS, helpers: int = 1
) -> str:
    """A running job that has put out its shares."""
    with database.transaction() as session:
        job_id = run_of(session, spec)
        shards.put_out(session, job_id, 1, STAGE, payloads, helpers=helpers)
    return job_id


def claim(database: Database, holder: str = "helper") -> ClaimedShard | None:
    with database.transaction() as session:
        return shards.claim(session, holder, LEASE)


def claimed(database: Database, holder: str = "helper") -> ClaimedShard:
    shard = claim(database, holder)
    assert shard is not None
    return shard


def take(database: Database, job_id: str, attempt: int = 1) -> int | None:
    with database.transaction() as session:
        return shards.take(session, job_id, attempt, STAGE)


def begin(database: Database, shard: ClaimedShard) -> bool:
    with database.transaction() as session:
        return shards.begin(session, shard)


def finish(database: Database, shard: ClaimedShard, result: dict[str, Any]) -> bool:
    with database.transaction() as session:
        return shards.finish(session, shard, result)


def results(database: Database, job_id: str) -> dict[int, tuple[dict[str, Any], str | None]]:
    with database.session() as session:
        done = shards.results(session, job_id, STAGE)
    return {number: (result.value, result.holder) for number, result in done.items()}


def silence(database: Database) -> None:
    """Let the leases of all helpers run out."""
    with database.transaction() as session:
        session.execute(
            update(Shard)
            .where(Shard.lease_until.is_not(None))
            .values(lease_until=utc_now() - timedelta(seconds=2 * LEASE))
        )


def requeue(database: Database, job_id: str) -> None:
    """The job's worker is lost, and another one takes the job."""
    with database.transaction() as session:
        lifecycle.release(session, job_id, 1, message="again")
        assert lifecycle.claim_one(session, job_id, "second", LEASE) is not None


def test_the_run_takes_each_share_once_and_keeps_its_results(database: Database, spec: JobSpec) -> None:
    job_id = offer(database, spec)
    assert [take(database, job_id) for _ in range(4)] == [0, 1, 2, None]
    with database.transaction() as session:
        for number in range(3):
            shards.finish_own(session, job_id, 1, STAGE, number, {"loss": number})
    assert results(database, job_id) == {number: ({"loss": number}, None) for number in range(3)}
    with database.transaction() as session:
        shards.clear(session, job_id, 1, STAGE)
    with database.session() as session:
        assert session.scalars(select(Shard.number)).all() == []


def test_a_helper_takes_what_the_run_has_not(database: Database, spec: JobSpec) -> None:
    job_id = offer(database, spec)
    assert take(database, job_id) == 0
    shard = claimed(database)
    assert (shard.job_id, shard.number, shard.payload) == (job_id, 1, PAYLOADS[1])
    assert shard.spec == spec.model_dump(mode="json")
    with database.session() as session:
        assert shards.held(session, job_id, "helper") == shard
    assert begin(database, shard)
    assert finish(database, shard, {"loss": 1})
    assert results(database, job_id) == {1: ({"loss": 1}, "helper")}
    with database.session() as session:
        assert session.scalars(select(ComputeUse.tenant)).all() == ["default"]  # its time was charged


def test_no_more_help_than_asked_for(database: Database, spec: JobSpec) -> None:
    offer(database, spec, helpers=2)
    with database.session() as session:
        assert shards.claimable(session) == 2
    assert claim(database, "one") is not None
    assert claim(database, "two") is not None
    assert claim(database, "three") is None
    with database.session() as session:
        assert shards.claimable(session) == 0


def test_a_job_that_asks_for_no_help_gets_none(database: Database, spec: JobSpec) -> None:
    offer(database, spec, helpers=0)
    assert claim(database) is None


def test_many_workers_at_once_take_no_share_twice(database: Database, spec: JobSpec) -> None:
    offer(database, spec, helpers=2)
    with ThreadPoolExecutor(8) as pool:
        taken = [shard for shard in pool.map(lambda n: claim(database, f"h{n}"), range(8)) if shard]
    assert sorted(shard.number for shard in taken) == [0, 1]


def test_a_warm_helper_goes_on_unless_a_job_waits(database: Database, spec: JobSpec) -> None:
    job_id = offer(database, spec)
    first = claimed(database)
    with database.transaction() as session:
        assert shards.finish(session, first, {})
        second = shards.claim_next(session, first, LEASE)
    assert second is not None
    assert (second.number, second.holder) == (1, "helper")
    assert take(database, job_id) == 2  # the helper has begun with its second already
    assert take(database, job_id) is None
    requeued = offer(database, spec)
    with database.transaction() as session:
        lifecycle.create(session, spec)
        assert shards.finish(session, second, {})
        assert shards.claim_next(session, second, LEASE) is None
    assert requeued != job_id


def test_a_job_whose_tenant_has_no_minutes_takes_no_helper_away(database: Database, spec: JobSpec) -> None:
    offer(database, spec)
    first = claimed(database)
    with database.transaction() as session:
        lifecycle.create(session, spec)
        assert shards.finish(session, first, {})
        assert shards.claim_next(session, first, LEASE, compute_minutes=1.0) is None
        assert shards.claim_next(session, first, LEASE, compute_minutes=0.0) is not None


def test_the_run_does_not_wait_for_a_helper_that_is_still_starting(database: Database, spec: JobSpec) -> None:
    job_id = offer(database, spec, PAYLOADS[:2])
    shard = claimed(database)
    assert [take(database, job_id) for _ in range(3)] == [1, 0, None]
    assert not begin(database, shard)
    assert not finish(database, shard, {"loss": "the helper's"})
    assert results(database, job_id) == {}
    with database.transaction() as session:
        assert not shards.heartbeat(session, job_id, "helper", LEASE)


def test_a_helper_at_work_keeps_its_share_while_its_heart_beats(database: Database, spec: JobSpec) -> None:
    job_id = offer(database, spec, PAYLOADS[:1])
    shard = claimed(database)
    assert begin(database, shard)
    silence(database)
    with database.transaction() as session:
        assert shards.heartbeat(session, job_id, "helper", LEASE)
    assert take(database, job_id) is None
    assert claim(database, "another") is None


def test_what_a_lost_helper_held_is_taken_and_the_zombie_refused(database: Database, spec: JobSpec) -> None:
    job_id = offer(database, spec, PAYLOADS[:1])
    shard = claimed(database)
    assert begin(database, shard)
    silence(database)
    assert take(database, job_id) == 0
    assert not finish(database, shard, {"loss": "the zombie's"})
    with database.transaction() as session:
        shards.finish_own(session, job_id, 1, STAGE, 0, {"loss": "the run's"})
    assert not finish(database, shard, {"loss": "the zombie's"})
    assert results(database, job_id) == {0: ({"loss": "the run's"}, None)}
    with database.session() as session:
        assert session.scalars(select(Shard.failures)).all() == [1]


def test_another_helper_of_the_same_name_is_refused_by_its_attempt(database: Database, spec: JobSpec) -> None:
    offer(database, spec, PAYLOADS[:1])
    zombie = claimed(database)
    silence(database)
    follower = claimed(database)
    assert follower.attempt == zombie.attempt + 1
    assert not finish(database, zombie, {})
    assert finish(database, follower, {})


def test_after_too_many_failures_the_run_is_left_alone(database: Database, spec: JobSpec) -> None:
    job_id = offer(database, spec)
    for _ in range(MOST_FAILURES):
        shard = claimed(database)
        with database.transaction() as session:
            assert shards.give_back(session, job_id, shard.holder, failed=True) == 1
    assert claim(database) is None
    with database.session() as session:
        assert shards.claimable(session) == 0
    assert [take(database, job_id) for _ in range(3)] == [0, 1, 2]


def test_an_orderly_end_is_no_failure(database: Database, spec: JobSpec) -> None:
    job_id = offer(database, spec)
    for _ in range(MOST_FAILURES + 1):
        shard = claimed(database)
        with database.transaction() as session:
            assert shards.give_back(session, job_id, shard.holder, failed=False) == 1


def test_the_next_attempt_finds_what_is_done(database: Database, spec: JobSpec) -> None:
    job_id = offer(database, spec)
    assert take(database, job_id) == 0
    shard = claimed(database)
    assert finish(database, shard, {"loss": 1})
    requeue(database, job_id)
    with pytest.raises(LeaseLost):
        take(database, job_id, attempt=1)
    with database.transaction() as session:
        shards.put_out(session, job_id, 2, STAGE, PAYLOADS, helpers=1)
    assert results(database, job_id) == {1: ({"loss": 1}, "helper")}
    assert [take(database, job_id, attempt=2) for _ in range(3)] == [0, 2, None]


def test_other_work_replaces_what_was_offered(database: Database, spec: JobSpec) -> None:
    job_id = offer(database, spec)
    shard = claimed(database)
    requeue(database, job_id)
    with database.transaction() as session:
        shards.put_out(session, job_id, 2, STAGE, [{"elements": ["x"]}, {"elements": ["y"]}], helpers=1)
    assert not finish(database, shard, {"loss": 0})
    assert results(database, job_id) == {}
    assert [take(database, job_id, attempt=2) for _ in range(3)] == [0, 1, None]


@pytest.mark.parametrize("end", ["cancel", "fail"])
def test_helpers_stop_when_the_job_is_to_end(database: Database, spec: JobSpec, end: str) -> None:
    job_id = offer(database, spec, helpers=2)
    shard = claimed(database)
    with database.transaction() as session:
        if end == "cancel":
            lifecycle.request_cancel(session, job_id)
        else:
            lifecycle.fail(session, job_id, 1, JobError("code", "detail", "remedy"))
    with database.transaction() as session:
        assert not shards.heartbeat(session, job_id, shard.holder, LEASE)
    assert claim(database, "another") is None


def test_no_run_writes_shares_that_lost_its_job(database: Database, spec: JobSpec) -> None:
    job_id = offer(database, spec)
    requeue(database, job_id)
    with pytest.raises(LeaseLost), database.transaction() as session:
        shards.put_out(session, job_id, 1, STAGE, [], helpers=1)
    with pytest.raises(LeaseLost), database.transaction() as session:
        shards.finish_own(session, job_id, 1, STAGE, 0, {})
    with pytest.raises(LeaseLost), database.transaction() as session:
        shards.clear(session, job_id, 1, STAGE)


def test_the_row_of_the_job_does_not_change(database: Database, spec: JobSpec) -> None:
    job_id = offer(database, spec)
    with database.session() as session:
        before = session.get_one(Job, job_id).version
    assert finish(database, claimed(database), {})
    with database.session() as session:
        assert session.get_one(Job, job_id).version == before


def test_a_tenants_limit_counts_helpers_too(database: Database, spec: JobSpec) -> None:
    with database.transaction() as session:
        job_id = run_of(session, spec, tenant="small")
        shards.put_out(session, job_id, 1, STAGE, PAYLOADS, helpers=2)
        quotas.set_limits(session, "small", running_jobs=2)
    assert claim(database, "one") is not None
    assert claim(database, "two") is None
    with database.session() as session:
        assert shards.claimable(session) == 0


def test_shares_go_with_their_job(database: Database, spec: JobSpec) -> None:
    ended, deleted = offer(database, spec), offer(database, spec)
    with database.transaction() as session:
        for job_id in (ended, deleted):
            lifecycle.fail(session, job_id, 1, JobError("code", "detail", "remedy"))
        retention.remove_job(session, session.get_one(Job, deleted), 30)
    with database.session() as session:
        assert set(session.scalars(select(Shard.job_id))) == {ended}
    with database.transaction() as session:
        retention.sweep_jobs(session, Keeping(30, 90, 24, 400))
    with database.session() as session:
        assert session.scalars(select(Shard.job_id)).all() == []
        assert session.get_one(Job, ended).status is JobStatus.FAILED


def test_states_are_those_of_the_table(database: Database, spec: JobSpec) -> None:
    offer(database, spec)
    with database.session() as session:
        assert set(session.scalars(select(Shard.status))) == {ShardStatus.WAITING}


def test_how_many_workers_share_the_work_does_not_change_what_the_job_is(spec: JobSpec) -> None:
    shared = JobSpec.model_validate(spec.model_dump() | {"budget": {"max_workers": 8}})
    other = JobSpec.model_validate(spec.model_dump() | {"budget": {"max_candidates": 8}})
    assert shared.digest() == spec.digest() != other.digest()


@pytest.mark.parametrize("workers", [0, 65, 1.5])
def test_workers_are_one_to_sixty_four(spec: JobSpec, workers: float) -> None:
    with pytest.raises(ValidationError):
        JobSpec.model_validate(spec.model_dump() | {"budget": {"max_workers": workers}})
