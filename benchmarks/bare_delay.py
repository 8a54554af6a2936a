"""Calls ``delay()`` at random moments: ``python -m benchmarks.bare_delay COUNT RATE``; prints the rate reached."""

from __future__ import annotations

import random
import sys
import time

from benchmarks.latency_app import since_call


def main() -> None:
    """Call it COUNT times, RATE times a second on average, as pgbench spaces its transactions."""
    count, rate = int(sys.argv[1]), float(sys.argv[2])
    spacing = random.Random(1)
    began = due = time.time()
    for _ in range(count):
        due += spacing.expovariate(rate)
        time.sleep(max(0.0, due - time.time()))
        since_call.delay(time.time())
    print(count / (time.time() - began))


if __name__ == "__main__":
    main()
