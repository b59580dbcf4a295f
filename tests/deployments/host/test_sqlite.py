"""Prefect's server on SQLite: transactions that read before they write wait for each other."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import Context
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from prefect.server.database.configurations import (
    SQLITE_BEGIN_MODE,
    AioSqliteConfiguration,
    BaseDatabaseConfiguration,
)
from sqlalchemy.ext.asyncio import AsyncSession

from deployments.host.sqlite import KEPT_CONNECTIONS, WritersWait
from tests.kits.server import small_server

READ, WRITE = sa.text("SELECT n FROM counted"), sa.text("UPDATE counted SET n = :n")


class Database:
    """A database with one number in it."""

    def __init__(self, config: BaseDatabaseConfiguration) -> None:
        self.config = config

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """As Prefect's `session_context(begin_transaction=True)`."""
        async with self.session() as session, self.config.begin_transaction(session):
            yield session

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """As Prefect's `session_context()`."""
        async with await self.config.session(await self.config.engine()) as session:
            yield session

    async def read(self, session: AsyncSession) -> int:
        return (await session.execute(READ)).scalar_one()

    async def count(self, meanwhile: Coroutine[Any, Any, None] | None = None) -> None:
        """Add one; what is given happens between the read and the write."""
        async with self.transaction() as session:
            number = await self.read(session)
            if meanwhile is not None:
                other = asyncio.create_task(meanwhile, context=Context())
                await asyncio.sleep(0.3)
            await session.execute(WRITE, {"n": number + 1})
        if meanwhile is not None:
            await other


def run(
    folder: Path,
    config: type[AioSqliteConfiguration],
    work: Callable[[Database], Coroutine[Any, Any, None]],
) -> int:
    """Make a database, do the work on it, and return the number in it."""
    url = f"sqlite+aiosqlite:///{folder / 'test.db'}"

    async def made() -> int:
        database = Database(config(connection_url=url))
        async with database.transaction() as session:
            await session.execute(sa.text("CREATE TABLE counted (n INTEGER)"))
            await session.execute(sa.text("INSERT INTO counted VALUES (0)"))
        try:
            await work(database)
            async with database.session() as session:
                return await database.read(session)
        finally:
            await (await database.config.engine()).dispose()

    return asyncio.run(made())


async def two_at_once(database: Database) -> None:
    await database.count(meanwhile=database.count())


def test_who_reads_and_then_writes_does_not_fail_and_loses_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, WritersWait, two_at_once) == 2


def test_prefects_own_way_fails_at_once(tmp_path: Path) -> None:
    """If this test fails Prefect has mended it, and sqlite.py may go."""
    with pytest.raises(sa.exc.OperationalError, match="database is locked"):
        run(tmp_path, AioSqliteConfiguration, two_at_once)


def test_readers_wait_for_nobody_and_a_transaction_inside_another_does_not_wait_for_it(
    tmp_path: Path,
) -> None:
    async def work(database: Database) -> None:
        async with database.transaction() as session:
            await session.execute(WRITE, {"n": 5})
            assert SQLITE_BEGIN_MODE.get() is None, "what is read beside it begins no transaction"
            async with asyncio.timeout(5), database.session() as beside:
                assert await database.read(beside) == 0
            async with asyncio.timeout(5), database.transaction() as inside:
                assert await database.read(inside) == 0

    assert run(tmp_path, WritersWait, work) == 5


def test_connections_stay_and_nobody_waits_for_one(tmp_path: Path) -> None:
    opened: list[object] = []

    class Counted(WritersWait):
        def setup_sqlite(self, conn: Any, record: Any) -> None:
            super().setup_sqlite(conn, record)
            opened.append(conn)

    async def work(database: Database) -> None:
        for _ in range(20):
            async with database.session() as session:
                await database.read(session)
        assert len(opened) == 1, "one after the other they share a connection"
        many = 3 * KEPT_CONNECTIONS
        async with AsyncExitStack() as at_once, asyncio.timeout(5):
            for _ in range(many):
                session = await at_once.enter_async_context(database.session())
                await database.read(session)
        assert len(opened) == many
        await database.count()
        assert len(opened) == many, "those that were kept are used again"

    assert run(tmp_path, Counted, work) == 1


def test_a_connection_is_given_back_without_what_was_not_committed(tmp_path: Path) -> None:
    class GivenUpError(Exception):
        pass

    async def give_up(database: Database) -> None:
        async with database.transaction() as session:
            await session.execute(WRITE, {"n": 9})
            raise GivenUpError

    async def work(database: Database) -> None:
        with pytest.raises(GivenUpError):
            await give_up(database)
        await database.count()

    assert run(tmp_path, WritersWait, work) == 1


@pytest.mark.long
@pytest.mark.slow
def test_a_server_with_many_workers_refuses_no_heartbeat(tmp_path: Path) -> None:
    with small_server(tmp_path / "prefect") as url, httpx.Client(base_url=url, timeout=60) as api:
        api.post("/work_pools/", json={"name": "p", "type": "process"}).raise_for_status()
        flow = api.post("/flows/", json={"name": "f"}).raise_for_status().json()["id"]

        def at_work(number: int) -> list[int]:
            """What a worker and the record of its job send; returns the answers."""
            run = api.post("/flow_runs/", json={"flow_id": flow}).raise_for_status().json()["id"]
            told = {"key": "upscale-progress", "type": "progress", "flow_run_id": run}
            artifact = api.post("/artifacts/", json=told | {"data": 0.0}).raise_for_status().json()
            state = {"state": {"type": "RUNNING", "name": "Running"}, "force": True}
            answers = []
            for percent in range(15):
                answers += [
                    api.post("/work_pools/p/workers/heartbeat", json={"name": f"w{number}"}),
                    api.patch(f"/artifacts/{artifact['id']}", json={"data": float(percent)}),
                    api.post(f"/flow_runs/{run}/set_state", json=state),
                ]
            return [answer.status_code for answer in answers]

        with ThreadPoolExecutor(8) as threads:
            codes = [code for answers in threads.map(at_work, range(8)) for code in answers]
        assert {code for code in codes if code >= 400} == set()
    assert "database is locked" not in (tmp_path / "prefect" / "server.log").read_text()
