"""The store keeps jobs and pictures, whoever dies in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from app.jobs.faults import StoreAway
from app.jobs.folder import Folder
from app.jobs.rows import Place, Retention, State
from app.jobs.store import LISTED, Store
from app.jobs.tables import METADATA
from model.errors import DalleError


def test_jobs_of_an_older_server_keep_their_client_and_their_time(address: str, tmp_path: Path) -> None:
    store = Store(address, Folder(str(tmp_path / "pictures")))
    jobs = [store.accept(asked, 1, "key").id for asked in ({"until": 9e9}, {"until": None}, {})]
    store.close()
    engine = sa.create_engine(address)
    with engine.begin() as connection:  # as before the second migration
        for column in ("client", "until"):
            connection.execute(sa.text(f"ALTER TABLE jobs DROP COLUMN {column}"))
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0001'"))
    engine.dispose()
    store = Store(address, Folder(str(tmp_path / "pictures")))
    found = [store.job(job) for job in jobs]
    store.close()
    assert [(job.client, job.until) for job in found if job] == [("key", 9e9), ("key", None), ("key", None)]


def test_a_store_of_a_newer_server_is_left_alone(address: str, tmp_path: Path) -> None:
    Store(address, Folder(str(tmp_path / "pictures"))).close()
    engine = sa.create_engine(address)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    newer = r"^store: .* cannot be used: a newer server has written it, in version 9999; this one knows \d{4} at most$"
    with pytest.raises(DalleError, match=newer):
        Store(address, Folder(str(tmp_path / "pictures")))


def test_a_database_that_takes_no_writes_is_away(postgres_database: str, tmp_path: Path) -> None:
    store = Store(postgres_database, Folder(str(tmp_path / "pictures")))
    job = store.accept({}, 1, "")
    engine = sa.create_engine(postgres_database)
    name = engine.url.database

    def writes(allowed: bool) -> None:
        """Allow them, or not, as a failover to a standby does. Connections that are open end."""
        setting = f"ALTER DATABASE {name} SET default_transaction_read_only = {'off' if allowed else 'on'}"
        others = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}' AND pid <> pg_backend_pid()"
        )
        with engine.begin() as connection:
            connection.execute(sa.text("SET TRANSACTION READ WRITE"))
            connection.execute(sa.text(setting))
            connection.execute(sa.text(others.format(name)))

    writes(False)
    for write in (lambda: store.accept({}, 1, ""), lambda: store.keep(job.id, 0, "", {}, b"x"), store.release):
        with pytest.raises(StoreAway, match="^the database of jobs cannot be reached now$"):
            write()
    assert store.job(job.id) == job
    writes(True)
    engine.dispose()
    assert store.keep(job.id, 0, "", {}, b"x")[1].state is State.COMPLETED  # type: ignore[union-attr]
    store.close()


def files(tmp_path: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in (tmp_path / "pictures").rglob("*") if path.is_file())


@pytest.mark.usefixtures("store")
def test_the_migrations_make_the_tables_that_the_code_knows(address: str) -> None:
    engine = sa.create_engine(address)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    engine.dispose()


def test_a_job_is_painted_to_its_end_by_two_servers_one_of_which_dies(make_store: Callable[[], Store]) -> None:
    first, second = make_store(), make_store()
    job = first.accept({"prompts": ["a cat"]}, total=3, owner="me")
    assert (job.state, job.done) == (State.QUEUED, 0)
    claimed = first.claim(-1, [""])  # its lease ends at once
    first.close()  # it has died
    assert claimed is not None
    assert claimed.state is State.RUNNING
    first.keep(job.id, 1, "me", {"seed": 5}, b"one")
    again = second.claim(60, [""])
    assert again is not None
    assert (again.id, again.done) == (job.id, 1)
    assert first.claim(60, [""]) is None
    assert first.renew([job.id], 60) == set() == first.open([job.id])
    assert second.renew([job.id, "job_of_others"], 60) == {job.id} == second.open([job.id, "job_of_others"])
    assert second.renew([], 60) == set()
    second.keep(job.id, 0, "me", {"seed": 5}, b"zero")
    picture, ended = second.keep(job.id, 2, "me", {"seed": 5}, b"two")
    assert ended is not None
    assert (ended.state, ended.done, ended.server) == (State.COMPLETED, 3, None)
    assert [(one.number, one.order) for one in first.pictures(job.id)] == [(1, 1), (0, 2), (2, 3)]
    assert [one.number for one in first.pictures(job.id, after=2)] == [2]
    assert first.folder.read(picture.name) == b"two"


def test_who_only_reads_waits_for_no_writer(store: Store, address: str) -> None:
    job = store.accept({"prompts": ["a cat"]}, 2, "key", key="once")
    picture, _ = store.keep(job.id, 0, "key", {}, b"x")
    engine = sa.create_engine(address)
    with engine.begin() as writer:
        writer.execute(sa.text("UPDATE jobs SET done = 2"))
        found = store.job(job.id)
        assert found is not None
        assert (found.done, store.waiting("key"), store.places([job.id])) == (1, (1, 1), {job.id: Place(0, 1)})
        assert (store.jobs("key", 5), store.keyed("once"), store.open([job.id])) == (([found], False), True, set())
        assert (store.pictures(job.id), store.picture(picture.name)) == ([picture], picture)
    engine.dispose()


def test_a_picture_is_kept_once(store: Store, tmp_path: Path) -> None:
    job = store.accept({}, total=4, owner="")
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: store.keep(job.id, n % 3, "", {"n": n}, b"%d" % (n % 3)), range(12)))
    assert len({picture.name for picture, _ in found}) == 3
    assert files(tmp_path) == [b"0", b"1", b"2"]
    assert sorted(one.order for one in store.pictures(job.id)) == [1, 2, 3]


def test_an_attempt_that_fails_late_leaves_a_kept_picture_its_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = store.accept({}, 2, "")
    store.keep(job.id, 0, "", {}, b"x")

    def away(*_: object) -> None:
        raise StoreAway("the store does not answer now", "it is away")

    monkeypatch.setattr(store, "_keep", away)
    with pytest.raises(StoreAway):
        store.keep(job.id, 0, "", {}, b"x")
    assert files(tmp_path) == [b"x"]
    with pytest.raises(StoreAway):
        store.keep(None, 0, "", {}, b"y")
    assert files(tmp_path) == [b"x"]


def test_a_cancelled_job_takes_no_more_pictures(store: Store, tmp_path: Path) -> None:
    job = store.accept({}, total=2, owner="")
    store.claim(60, [""])
    assert store.end(job.id, State.CANCELLED) is not None
    assert store.end(job.id, State.FAILED, {"message": "too late"}) is None
    _, after = store.keep(job.id, 0, "", {}, b"late")
    assert after is not None
    assert after.state is State.CANCELLED
    assert files(tmp_path) == []
    assert store.claim(60, [""]) is None


def test_jobs_are_listed_by_owner_page_by_page(store: Store) -> None:
    mine = [store.accept({"n": n}, 1, "me").id for n in range(5)]
    store.accept({}, 1, "other")
    first, more = store.jobs("me", 3)
    after = first[-1].created, first[-1].id
    rest, none = store.jobs("me", 3, before=after)
    assert [job.id for job in [*first, *rest]] == mine[::-1]
    assert (more, none) == (True, False)
    assert store.jobs("nobody", 3, before=after) == ([], False)
    long = [store.accept({"prompts": ["a" * LISTED]}, 7, "long").id for _ in range(2)]
    assert [job.id for job in store.jobs("long", 3)[0]] == long[1:]  # a page of long texts ends early
    assert store.waiting("long") == (5 + 1 + 14, 14)
    assert store.waiting("nobody") == (5 + 1 + 14, 0)


def test_a_list_goes_on_after_a_job_that_was_removed_meanwhile(store: Store) -> None:
    old, removed, new = (store.accept({}, 1, "me") for _ in range(3))
    (first,), _ = store.jobs("me", 1)
    assert first.id == new.id
    (second,), _ = store.jobs("me", 1, before=(first.created, first.id))
    assert second.id == removed.id
    store.end(removed.id, State.CANCELLED)
    store.sweep(Retention(seconds=-1.0))
    assert store.job(removed.id) is None
    third, more = store.jobs("me", 1, before=(second.created, second.id))
    assert ([job.id for job in third], more) == ([old.id], False)


def test_the_place_in_the_queue_goes_by_turns_of_the_clients(store: Store) -> None:
    long, after, other = store.accept({}, 50, "a"), store.accept({}, 7, "a"), store.accept({}, 5, "b")
    ids = [long.id, after.id, other.id, "job_unknown"]
    assert store.places(ids) == {long.id: Place(0, 55), after.id: Place(55, 62), other.id: Place(0, 10)}
    store.keep(long.id, 0, "a", {}, b"x")
    store.end(other.id, State.CANCELLED)
    assert store.places(ids) == {long.id: Place(0, 49), after.id: Place(49, 56)}
    assert store.places([]) == {}


def test_a_job_that_another_server_paints_holds_nobody_up(make_store: Callable[[], Store]) -> None:
    first, second = make_store(), make_store()
    here, there = first.accept({}, 5, "a"), first.accept({}, 7, "b")
    assert first.places([here.id, there.id]) == {here.id: Place(0, 10), there.id: Place(0, 12)}
    first.claim(60, [""])
    second.claim(60, [""])
    assert first.places([here.id, there.id]) == {here.id: Place(0, 5), there.id: Place(0, 7)}
    last = first.accept({}, 1, "a")
    assert first.places([last.id]) == {last.id: Place(10, 12)}


def test_clients_that_have_a_job_waiting_are_passed_over(store: Store) -> None:
    first, _, other = store.accept({}, 1, "a"), store.accept({}, 1, "a"), store.accept({}, 1, "key", client="b")
    painted = [first.id]
    assert store.claim(60, [""]) == store.job(first.id)
    assert store.claim(60, [""], painted, ["a"]) == store.job(other.id)
    assert store.claim(60, [""], [*painted, other.id], ["a"]) is None
    again = store.claim(60, [""], [], ["b"])  # the server has lost it, and so goes on with it
    assert again is not None
    assert again.id == first.id


def test_a_clock_that_jumps_takes_no_job_from_a_living_server(
    make_store: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_store(), make_store()
    hook = {"url": "https://example.org", "secret": "whsec_x"}
    for _ in range(2):
        first.accept({}, 1, "", hook=hook)
    job, told = first.claim(60, [""]), first.accept({}, 1, "", hook=hook)
    assert job is not None
    first.end(told.id, State.FAILED)
    now = time.time()
    monkeypatch.setattr("app.jobs.database.time.time", lambda: now + 3600)
    other = second.claim(60, [""])
    assert other is not None
    assert second.claim(60, [""], [other.id]) is None
    assert first.renew([job.id], 60) == {job.id}
    assert second.due(60) is not None


@pytest.mark.parametrize("address", ["sqlite"], indirect=True)
def test_a_message_is_sent_though_the_clock_was_set_back_by_years(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = store.accept({}, 1, "", hook={"url": "https://example.org", "secret": "whsec_x"})
    store.end(job.id, State.FAILED)
    now = time.time()
    monkeypatch.setattr("app.jobs.database.time.time", lambda: now - 1e8)
    assert store.due(60) is not None
    assert store.due(60) is None


def test_a_job_expires_even_if_nobody_paints_it(store: Store) -> None:
    hook = {"url": "https://example.org", "secret": "whsec_x"}
    late, fine = (store.accept({}, 1, "", hook=hook, until=time.time() + seconds) for seconds in (-1, 60))
    claimed = store.claim(60, [""])
    assert claimed is not None
    assert claimed.id == fine.id
    ended = store.job(late.id)
    assert ended is not None
    assert (ended.state, ended.error) == (State.EXPIRED, {"message": "its time has passed"})
    message = store.due(60)
    assert message is not None
    assert message.job.id == late.id


def test_a_server_that_ends_well_gives_its_jobs_back(make_store: Callable[[], Store]) -> None:
    store = make_store()
    job = store.accept({}, 1, "")
    store.claim(60, [""])
    store.release()
    found = make_store().claim(60, [""])
    assert found is not None
    assert found.id == job.id


def test_what_was_never_fetched_is_kept_longest(store: Store, tmp_path: Path) -> None:
    job = store.accept({}, 4, "")
    names = [store.keep(job.id, n, "", {}, b"%d" % n)[0].name for n in range(4)]
    store.fetched(names[2:])
    assert store.sweep(Retention(pictures=3)) == 1
    assert store.sweep(Retention(bytes=2)) == 1
    assert files(tmp_path) == [b"0", b"1"]  # the two that were fetched went first
    store.fetched(names[1:2])
    time.sleep(0.02)
    assert store.sweep(Retention(seconds=0.01)) >= 1
    time.sleep(0.05)
    store.sweep(Retention(seconds=0.01))
    assert files(tmp_path) == [] and store.job(job.id) is None  # noqa: PT018 - the job goes with its last picture


def test_a_picture_of_a_job_is_kept_from_the_jobs_end_on(store: Store, address: str, tmp_path: Path) -> None:
    job = store.accept({}, 2, "")
    store.fetched([store.keep(job.id, 0, "", {}, b"x")[0].name])
    engine = sa.create_engine(address)
    with engine.begin() as connection:  # it was painted long ago
        connection.execute(sa.text("UPDATE pictures SET created = created - 2e6"))
    engine.dispose()
    store.end(job.id, State.CANCELLED)
    assert store.sweep(Retention(seconds=1e6)) == 0
    assert files(tmp_path) == [b"x"]


def test_pictures_of_an_open_job_are_never_swept(store: Store) -> None:
    job = store.accept({}, 2, "")
    store.keep(job.id, 0, "", {}, b"x")
    assert store.sweep(Retention(seconds=-1e6, pictures=0, bytes=0)) == 0
    assert len(store.pictures(job.id)) == 1


def test_a_place_that_is_away_during_a_sweep_makes_it_forget_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.jobs.store.BATCH", 2)
    for number in range(5):
        store.keep(None, number, "", {}, b"%d" % number)
    (tmp_path / "pictures").rename(tmp_path / "away")
    (tmp_path / "pictures").touch()
    with pytest.raises(StoreAway):
        store.sweep(Retention(pictures=1))
    (tmp_path / "pictures").unlink()
    (tmp_path / "away").rename(tmp_path / "pictures")
    assert store.sweep(Retention(pictures=1)) == 4
    assert files(tmp_path) == [b"4"]


def test_a_job_that_cannot_be_written_down_leaves_no_image(store: Store, tmp_path: Path) -> None:
    with pytest.raises((TypeError, sa.exc.StatementError)):
        store.accept({"no": object()}, 1, "", image=b"x")
    assert files(tmp_path) == []


def test_secrets_are_shared(make_store: Callable[[], Store]) -> None:
    found = make_store().secret("links")
    assert len(found) == 32
    assert make_store().secret("links") == found != make_store().secret("hooks")


@pytest.mark.parametrize("address", ["nonsense", "sqlite:////proc/none/jobs.sqlite3", "oracle+none://x/y"])
def test_a_store_that_cannot_be_used_is_one_line(address: str, tmp_path: Path) -> None:
    with pytest.raises(DalleError, match="^store: .* cannot be used: [^\n]+$"):
        Store(address, Folder(str(tmp_path)))


def test_the_end_of_a_job_is_told_until_it_is_settled(make_store: Callable[[], Store]) -> None:
    store = make_store()
    hook = {"url": "https://example.org", "secret": "whsec_x"}
    job, quiet = store.accept({}, 1, "", hook=hook), store.accept({}, 1, "")
    for one in (job, quiet):
        store.keep(one.id, 0, "", {}, b"x")
    cancelled = store.accept({}, 1, "", hook=hook)
    store.end(cancelled.id, State.CANCELLED)
    message = store.due(60)
    assert message is not None
    assert (message.job.id, message.job.state, message.tries) == (job.id, State.COMPLETED, 0)
    assert store.due(60) is None  # another server does not send it meanwhile
    store.postpone(message.id, -1)
    again = make_store().due(60)
    assert again is not None
    assert (again.id, again.tries) == (message.id, 1)
    store.sweep(Retention(seconds=-1e6))
    assert store.job(job.id) is not None  # it is still to be told
    store.settle(message.id)
    assert store.due(60) is None


def test_over_sqlite_the_jobs_of_a_dead_server_go_on_at_once(tmp_path: Path) -> None:
    address, pictures = f"sqlite:///{tmp_path}/jobs.sqlite3", Folder(str(tmp_path / "pictures"))
    dying, living = Store(address, pictures), Store(address, pictures)
    job = dying.accept({}, 1, "")
    assert dying.claim(60, [""]) is not None
    assert living.claim(60, [""]) is None
    dying.close()  # lets its lock go, as a death does
    found = living.claim(60, [""])
    assert found is not None
    assert found.id == job.id
    living.close()
    assert list(tmp_path.glob("*.alive")) == []


def test_a_dead_servers_job_waits_again_also_where_its_model_is_not_served(make_store: Callable[[], Store]) -> None:
    dying, living = make_store(), make_store()
    job = dying.accept({}, 1, "", model="large")
    assert dying.claim(-1, ["large"]) is not None  # its lease ends at once
    dying.close()
    assert living.claim(60, ["small"]) is None
    found = living.job(job.id)
    assert found is not None
    assert (found.state, found.server, found.lease) == (State.QUEUED, None, None)


def test_a_lease_of_a_clock_that_went_wrong_ends(make_store: Callable[[], Store]) -> None:
    dying, living = make_store(), make_store()
    job = dying.accept({}, 1, "")
    assert dying.claim(1e6, [""]) is not None
    dying.close()
    found = living.claim(60, [""])
    assert found is not None
    assert found.id == job.id


def test_a_job_of_another_model_is_left_alone(store: Store) -> None:
    job = store.accept({}, 1, "", model="large")
    assert store.claim(60, ["small"]) is None
    found = store.claim(60, ["small", "large"])
    assert found is not None
    assert found.id == job.id


def test_a_key_makes_one_job(make_store: Callable[[], Store], tmp_path: Path) -> None:
    stores = [make_store(), make_store()]
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda n: stores[n % 2].accept({"n": n}, 1, "", image=b"x", key="k"), range(8)))
    assert len({job.id for job in made}) == 1
    assert files(tmp_path) == [b"x"]
