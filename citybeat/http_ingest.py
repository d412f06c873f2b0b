"""The parts of ingest that the API uses: storing readings, and retrying refused ones. The API does not import ingest itself."""

from collections.abc import Mapping
from contextlib import closing
from typing import Final

from citybeat.ingest.http import HttpIngest
from citybeat.ingest.writing import retry as replaying
from citybeat.settings import Settings
from citybeat.storage.accounts.quarantine import Filter
from citybeat.storage.batches.writer import BatchWriter
from citybeat.storage.db.connection import connect


def intake(settings: Settings, database_url: str) -> HttpIngest:
    """A writer of readings with the same pipeline as ingest; the API starts it."""
    return HttpIngest(
        settings.pipeline(database_url),
        size=settings.ingest_config().size,
        max_bytes=settings.max_message_bytes,
        room=settings.inbox_bytes,
    )


def judging(settings: Settings) -> replaying.Settings:
    """Settings of a retry."""
    return replaying.Settings(
        catalogue=settings.load_catalogue(),
        limits=settings.limits(),
        max_bytes=settings.max_message_bytes,
        quarantine_quota=settings.quarantine_quota_bytes,
    )


class Replays:
    """Retries refused messages, on database connections of its own."""

    def __init__(self, settings: Settings, database_url: str) -> None:
        self._url: Final = database_url
        self._judging: Final = judging(settings)

    def __call__(self, wanted: Filter, *, after: int, limit: int) -> tuple[Mapping[str, int], int | None]:
        """Retry up to `limit` rows after an id; returns counts by outcome, and the last row's id if more may follow."""
        with (
            closing(connect(self._url, application="replay")) as connection,
            closing(BatchWriter(self._url, quarantine_quota=self._judging.quarantine_quota)) as store,
        ):
            done = replaying.replay(store, connection, self._judging, wanted, after=after, limit=limit)
        return done.counts, done.last
