"""Which cluster a replication connection reaches, and what its history is.

Source: manual, section 54.4, IDENTIFY_SYSTEM and TIMELINE_HISTORY.
"""

from __future__ import annotations

import logging
from typing import Any

import psycopg2

from walex_celery.postgres.errors import explain_error, words_of
from walex_celery.postgres.parameters import ConnectionSettings
from walex_celery.postgres.timeline import FIRST_TIMELINE, Cluster, Timelines, parse_history

logger = logging.getLogger(__name__)


def identify(cursor: Any, settings: ConnectionSettings) -> Cluster:
    """The cluster of a replication connection; raises what :func:`explain_error` makes of a failure."""
    try:
        cursor.execute("IDENTIFY_SYSTEM")
        system_identifier, timeline, *_ = cursor.fetchone()
    except psycopg2.Error as error:
        raise explain_error(error, settings) from error
    return Cluster(int(system_identifier), _timelines(cursor, int(timeline), settings))


def _timelines(cursor: Any, current: int, settings: ConnectionSettings) -> Timelines:
    if current == FIRST_TIMELINE:
        return Timelines()
    try:
        cursor.execute(f"TIMELINE_HISTORY {current}")
        _, content = cursor.fetchone()
    except psycopg2.Error as error:
        if cursor.connection.closed or error.pgcode is None:
            raise explain_error(error, settings) from error
        logger.warning(
            "the history of timeline %s is not known (%s): what was committed before the last failover and is sent "
            "again gets other task ids",
            current,
            words_of(error),
        )
        return Timelines(current)
    # Text since Postgres 15, bytea before; the bytes are the same.
    return parse_history(current, content if isinstance(content, str) else bytes(content).decode())
