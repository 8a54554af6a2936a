"""Whether a producer is alive and ready: the answers of ``/healthz`` and ``/readyz``, for Kubernetes' probes.

Liveness is for restarting a hanging process; readiness is for roll-outs, disruption budgets and alerts. Neither
queries a server: they use the producer's own state and what the observer (``observer.py``) saw last, so a probe is
answered immediately.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from walex_celery.pipeline.producer import Producer
from walex_celery.telemetry.activity import Doing, Moment

#: Seconds without a sign of life after which a producer counts as hung, unless its activity explains them. Everything
#: that it does by itself takes a fraction of this. Rather late than wrong: a restart costs time.
HUNG_SECONDS: Final = 120.0

#: Activities without a time limit: the user's own code, and Postgres' wait for open transactions.
_UNBOUNDED: Final = frozenset({Doing.HANDLER, Doing.MIDDLEWARE, Doing.CREATING_SLOT})


class Verdict(NamedTuple):
    """A probe's answer.

    Attributes:
        ok: whether the probe succeeds.
        text: why, in one line.
    """

    ok: bool
    text: str


def liveness(producer: Producer) -> Verdict:
    """Whether the producer's threads make progress. Fails only if a restart would help.

    It does not fail while Postgres or the broker is down, nor while a batch handler runs, even for hours: a restart
    would only begin the same transaction again.
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
    return Verdict(True, _describe(now))


def readiness(producer: Producer, *, broker_reachable: bool | None) -> Verdict:
    """Whether the producer is working, or is standing by to take over.

    A standby is ready: one of two producers always stands by, so a roll-out or a disruption budget that waited for
    both to stream would never end.

    Args:
        producer: which.
        broker_reachable: the observer's ``broker_up``; ``None`` if not known yet.
    """
    now, intake = producer.activity.now, _intake(producer)
    if now.doing is Doing.BROKER_DOWN:
        return Verdict(False, "the broker is unreachable or refuses tasks; delivery is retried")
    if producer.streaming.is_set():
        return Verdict(True, _describe(now))
    if Doing.STANDING_BY in (now.doing, intake.doing if intake is not None else None):
        if broker_reachable:
            return Verdict(True, "standing by: another producer reads the slot")
        return Verdict(False, "standing by, but the broker can't be reached")
    return Verdict(False, f"not streaming: {_describe(now)}")


def _intake(producer: Producer) -> Moment | None:
    activity = producer.source_activity
    return None if activity is None else activity.now


def _describe(moment: Moment) -> str:
    if not moment.detail:
        return moment.doing.value
    return f"{moment.doing.value}: {moment.detail}, for {moment.seconds:.0f} s"
