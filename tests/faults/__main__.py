"""``python -m tests.faults``: a soak of any length; see ``make soak``."""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
from pathlib import Path

from tests.faults.soak import show, soak
from tests.faults.world import Variant
from tests.support import Database
from walex_celery.testing.servers import Postgres


def main() -> None:
    """Soak until the seconds are over, one variant after the other, each with a seed of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--broker", choices=("valkey", "rabbitmq", "quorum"), default="valkey")
    parser.add_argument("--spool", action="store_true", help="producers with a spool")
    parser.add_argument("--once", action="store_true", help="exactly_once_enqueue, on Valkey")
    parser.add_argument("--evenly", action="store_true", help="each fault as often as any other")
    parser.add_argument("--report", type=Path, help="a file to which the summary is added as a line of JSON")
    options = parser.parse_args()
    # So that all that runs is ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    variant = Variant(options.broker, spool=options.spool, once=options.once)
    with Postgres(settings={"fsync": "off"}) as records:
        database = Database(records, records.create_database())
        summary = soak(variant, options.seed, options.seconds, database, evenly=options.evenly)
    show([summary])
    if options.report is not None:
        with options.report.open("a") as file:
            file.write(json.dumps(summary.as_dict()) + "\n")


if __name__ == "__main__":
    main()
