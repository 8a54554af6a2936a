"""Whether a producer lives and is ready: what ``/healthz`` and ``/readyz`` answer, for Kubernetes' probes.

Liveness is for restarting a process that hangs; readiness for roll-outs, disruption budgets and alerts. Neither asks
anybody: they judge by what the producer says of itself, and by what the observer
(``observer.py``) has seen, so that a probe is answered at once.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from walex_celery.pipeline.producer import Producer
from walex_celery.telemetry.activity import Doing, Moment

#: Seconds without a sign of life after which a producer counts as hung, where nothing explains them. Each thing that
#: it does by itself takes a fraction of this, and a restart loses nothing but time: so rather late than wrongly.
HUNG_SECONDS: Final = 120.0

#: What may take as long as it takes: the user's own code, and Postgres' wait for open transactions.
_UNBOUNDED: Final = frozenset({Doing.HANDLER, Doing.MIDDLEWARE, Doing.CREATING_SLOT})


class Verdict(NamedTuple):
    """A probe's answer.

    Attributes:
        ok: whether the probe succeeds.
        text: why, in a line.
    """

    ok: bool
    text: str


def liveness(producer: Producer) -> Verdict:
    """Whether the producer's thread moves: fails where only a restart helps.

    It does not fail while Postgres or the broker is away, nor while a batch handler runs, for hours if need be: a
    restart would begin the same transaction anew, and help nobody.
    """
    now, settings = producer.activity.now, producer.walex.settings
    if now.doing is Doing.ENDED:
        return Verdict(False, "the producer has ended")
    for what, moment in (("producer", now), ("thread that reads the slot", _intake(producer))):
        if moment is None or moment.doing in _UNBOUNDED:
            continue
        allowed = HUNG_SECONDS + max(settings.publish_timeout, settings.connect_timeout)
        if moment.seconds > allowed and moment.doing is not Doing.ENDED:
            return Verdict(
                False,
                f"the {what} has shown no sign of life for {moment.seconds:.0f} s while {moment.doing.value}",
            )
    return Verdict(True, _told(now))


def readiness(producer: Producer, *, broker_reachable: bool | None) -> Verdict:
    """Whether the producer does its work, or waits to take over from the one that does.

    A standby is ready: of two producers one always stands by, and a roll-out or a disruption budget that waited for
    both to stream would wait for ever.

    Args:
        producer: which.
        broker_reachable: as the observer's ``broker_up``; ``None`` is not yet known.
    """
    now, intake = producer.activity.now, _intake(producer)
    if now.doing is Doing.BROKER_DOWN:
        return Verdict(False, "the broker is away, or refuses tasks; delivery is tried again")
    if producer.streaming.is_set():
        return Verdict(True, _told(now))
    if Doing.STANDING_BY in (now.doing, intake.doing if intake is not None else None):
        if broker_reachable:
            return Verdict(True, "standing by: another producer reads the slot")
        return Verdict(False, "standing by, but the broker can't be reached")
    return Verdict(False, f"not streaming: {_told(now)}")


def _intake(producer: Producer) -> Moment | None:
    activity = producer.source_activity
    return None if activity is None else activity.now


def _told(moment: Moment) -> str:
    if not moment.detail:
        return moment.doing.value
    return f"{moment.doing.value}: {moment.detail}, for {moment.seconds:.0f} s"
