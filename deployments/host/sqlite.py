"""Prefect's server on SQLite: a transaction waits for its turn to write instead of failing.

Prefect begins most of its transactions as readers. One that then wants to write fails at once with
`database is locked` if another has written meanwhile, whatever the timeout: what it has read is old
(SQLITE_BUSY_SNAPSHOT). Requests are then answered 503, and a worker's heartbeat is lost. Here every
transaction takes the lock for writing when it begins, and waits for it up to Prefect's timeout of a
minute. What only reads has no transaction in Prefect's server, so that it waits for nobody.

Importing this module loads Prefect, which reads its settings then.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration
from prefect.server.database.dependencies import MODELS_DEPENDENCIES
from prefect.server.utilities.database import get_dialect
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

_outer: ContextVar[AsyncSessionTransaction | None] = ContextVar("outer", default=None)
"""The transaction that this task is in: one that begins inside it must not wait for its end."""


class WritersWait(AioSqliteConfiguration):
    """Prefect's configuration for SQLite, whose transactions begin as writers."""

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
