"""Prefect's server on SQLite: a transaction waits for its turn to write instead of failing.

Prefect begins most of its transactions as readers. One that then wants to write fails at once with
`database is locked` if another has written meanwhile, whatever the timeout: what it has read is old
(SQLITE_BUSY_SNAPSHOT). Requests are then answered 503, and a worker's heartbeat is lost. Here every
transaction takes the lock for writing when it begins, and waits for it up to Prefect's timeout of a
minute. What only reads has no transaction in Prefect's server, so that it waits for nobody.

Prefect also opens a connection for each question and closes it again: a thread and seven statements
each time, for an idle server with a few workers a quarter of a core. Here a few connections stay
open, and more are opened as long as these are in use: nobody ever waits for one, because who holds
the lock for writing may need another.

Importing this module loads Prefect, which reads its settings then.
"""

from asyncio import get_running_loop
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from prefect.server.database.configurations import (
    ENGINES,
    SQLITE_BEGIN_MODE,
    AioSqliteConfiguration,
)
from prefect.server.database.dependencies import MODELS_DEPENDENCIES
from prefect.server.utilities.database import get_dialect
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    AsyncSessionTransaction,
    create_async_engine,
)
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

KEPT_CONNECTIONS = 4
"""How many stay open. Each keeps pages of the database in memory, up to CACHE_KIB."""
CACHE_KIB = 16_000
"""Prefect allows 20,000 pages, 80 MB, which is much for connections that stay."""

_outer: ContextVar[AsyncSessionTransaction | None] = ContextVar("outer", default=None)
"""The transaction that this task is in: one that begins inside it must not wait for its end."""


class WritersWait(AioSqliteConfiguration):
    """Prefect's configuration for SQLite: transactions begin as writers, and connections stay."""

    async def engine(self) -> AsyncEngine:
        """The engine of this event loop: Prefect's, with a pool of connections."""
        key = (get_running_loop(), self.connection_url, self.echo, self.timeout)
        if key not in ENGINES:
            ENGINES[key] = self._pooled()
            await self.schedule_engine_disposal(key)
        return await super().engine()

    def _pooled(self) -> AsyncEngine:
        engine = create_async_engine(
            self.connection_url,
            echo=self.echo,
            paramstyle="named",  # as Prefect's
            connect_args={} if self.timeout is None else {"timeout": self.timeout},
            poolclass=AsyncAdaptedQueuePool,
            pool_size=KEPT_CONNECTIONS,
            max_overflow=-1,
            pool_use_lifo=True,
        )
        event.listen(engine.sync_engine, "connect", self.setup_sqlite)
        event.listen(engine.sync_engine, "begin", self.begin_sqlite_stmt)
        return engine

    def setup_sqlite(self, conn: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        """Prefect's settings of a new connection, with a smaller cache."""
        super().setup_sqlite(conn, record)
        cursor = conn.cursor()
        cursor.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        cursor.close()

    @asynccontextmanager
    async def begin_transaction(
        self, session: AsyncSession, with_for_update: bool = False
    ) -> AsyncGenerator[AsyncSessionTransaction, None]:
        """Begin a transaction, commit it at the end of the block, or roll it back on an error."""
        outer = _outer.get()
        if outer is not None and outer.is_active:
            async with super().begin_transaction(session, with_for_update) as transaction:
                yield transaction
            return
        async with session.begin() as transaction:
            # The mode is for this transaction alone: what is read beside it has none.
            mode = SQLITE_BEGIN_MODE.set("IMMEDIATE")
            try:
                await session.connection()
            finally:
                SQLITE_BEGIN_MODE.reset(mode)
            inside = _outer.set(transaction)
            try:
                yield transaction
            finally:
                _outer.reset(inside)


def let_writers_wait() -> None:
    """Have the server of this process use it, if its database is SQLite."""
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if get_dialect(url).name == "sqlite":
        MODELS_DEPENDENCIES["database_config"] = WritersWait(connection_url=url)
