"""A reply that confirms nothing is a protocol error: the tasks are kept, and sent again (promise 1)."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.broker.support import ARGSREPR, VALUE, Proxy, make_app, new_id, publishing, take_all, task_ids
from walex_celery.broker import Publisher, TaskTarget
from walex_celery.errors import BrokerUnavailable, PublishRefused

#: To an LPUSH of 5 messages, and to the script that stores tasks with their position.
FALSE_REPLIES = [
    b"+OK\r\n", b"+QUEUED\r\n", b":0\r\n", b":-1\r\n", b":4\r\n", b"$2\r\nOK\r\n", b"$1\r\n5\r\n",
    b"*-1\r\n", b"*0\r\n", b"*1\r\n:5\r\n", b"*1\r\n-ERR x\r\n",
]  # fmt: skip


class LyingServer(Proxy):
    """A Valkey that throws away what stores tasks, and answers *reply* to it."""

    reply = b""
    #: What a command must contain to be thrown away.
    victim = b"LPUSH"

    def forward(self, data: bytes, source: socket.socket, sink: socket.socket) -> None:
        if self.reply and self.victim in data:
            source.sendall(self.reply)
        else:
            sink.sendall(data)


@pytest.fixture
def liar(redis_url: str) -> Iterator[LyingServer]:
    with LyingServer(urlsplit(redis_url).port or 0) as server:
        yield server


def behind(url: str, proxy: Proxy) -> str:
    return url.replace(f":{urlsplit(url).port}", f":{proxy.port}")


def add(publisher: Publisher, function: TaskTarget, count: int) -> list[str]:
    ids = [new_id() for _ in range(count)]
    for task_id in ids:
        publisher.add(function, task_id, VALUE, ARGSREPR)
    return ids


def finish(publisher: Publisher) -> None:
    publisher.flush()
    publisher.confirm()


@pytest.mark.parametrize("reply", FALSE_REPLIES)
def test_a_push_is_confirmed_by_the_lists_length_only(
    redis_url: str, liar: LyingServer, reply: bytes
) -> None:
    with publishing(make_app(behind(redis_url, liar))) as publisher:
        function = publisher.prepare("shop.send")
        publisher.declare()
        liar.reply = reply
        ids = add(publisher, function, 5)
        for _ in range(2):
            publisher.flush()
            with pytest.raises(
                BrokerUnavailable, match=r"answered LPUSH celery with .*an integer of at least 5"
            ):
                publisher.confirm()
            assert publisher.unconfirmed_count == 5
        liar.reply = b""
        finish(publisher)
        assert task_ids(take_all(redis_url)) == ids


@pytest.mark.parametrize("reply", [*FALSE_REPLIES, b":2\r\n", b":5\r\n"])
def test_the_script_is_confirmed_by_its_own_answer_only(
    redis_url: str, liar: LyingServer, reply: bytes
) -> None:
    with publishing(make_app(behind(redis_url, liar)), exactly_once=True) as publisher:
        function = publisher.prepare("shop.send")
        publisher.take_over("walex:1:shop")
        liar.reply = reply
        ids = add(publisher, function, 5)
        publisher.flush(100)
        with pytest.raises(BrokerUnavailable, match=r"answered EVAL with .*the integer 1"):
            publisher.confirm()
        liar.reply = b""
        finish(publisher)
        assert task_ids(take_all(redis_url)) == ids
        assert publisher.take_over("walex:1:shop") == 100


@pytest.mark.parametrize(
    "reply",
    [
        b"+OK\r\n",
        b":7\r\n",
        b"$2\r\nOK\r\n",
        b"$2\r\n-1\r\n",
        b"*0\r\n",
        b"*1\r\n$1\r\n7\r\n",
        b"*3\r\n:7\r\n$-1\r\n$-1\r\n",
    ],
)
def test_a_position_is_a_number_in_a_string(redis_url: str, liar: LyingServer, reply: bytes) -> None:
    with publishing(make_app(behind(redis_url, liar)), exactly_once=True) as publisher:
        publisher.prepare("shop.send")
        liar.victim, liar.reply = b"EVAL", reply
        with pytest.raises(BrokerUnavailable, match="answered EVAL with"):
            publisher.take_over("walex:1:shop")
        liar.reply = b""
        assert publisher.take_over("walex:1:shop") is None


@pytest.mark.parametrize("reply", [b"+OK\r\n", b":0\r\n", b":2\r\n", b"*0\r\n"])
def test_a_position_is_reset_when_the_script_says_so(redis_url: str, liar: LyingServer, reply: bytes) -> None:
    """Taken for reset while it is still there, it would make the producer drop tasks as enqueued already."""
    with publishing(make_app(behind(redis_url, liar)), exactly_once=True) as publisher:
        publisher.prepare("shop.send")
        publisher.take_over("walex:1:shop")
        liar.victim, liar.reply = b"HDEL", reply
        with pytest.raises(BrokerUnavailable, match="answered EVAL with"):
            publisher.reset_position()


class LyingRabbitMQ(Proxy):
    """A RabbitMQ whose acknowledgements name another tag, or refuse instead."""

    tag: int | None = None
    multiple = True
    #: Basic.Ack, or 120 for Basic.Nack, which looks the same.
    method = 80

    def forward(self, data: bytes, source: socket.socket, sink: socket.socket) -> None:
        # A method frame of 13 bytes: class 60 (basic), method 80 (ack), the tag, a byte of flags.
        if self.tag is not None:
            ack = rb"(\x01..\x00\x00\x00\x0d\x00\x3c\x00)\x50.{8}.\xce"
            lie = bytes([self.method]) + self.tag.to_bytes(8, "big") + bytes([self.multiple]) + b"\xce"
            data = re.sub(ack, lambda found: found[1] + lie, data, flags=re.DOTALL)
        sink.sendall(data)


@pytest.mark.parametrize("multiple", [False, True])
@pytest.mark.parametrize("tag", [0, 6, 1005, 2**64 - 1])
def test_an_ack_of_a_tag_that_was_never_used(amqp_url: str, tag: int, multiple: bool) -> None:
    with (
        LyingRabbitMQ(urlsplit(amqp_url).port or 0) as proxy,
        publishing(make_app(behind(amqp_url, proxy))) as publisher,
    ):
        function = publisher.prepare("shop.send")
        publisher.declare()
        proxy.tag, proxy.multiple = tag, multiple
        ids = add(publisher, function, 5)
        with pytest.raises(BrokerUnavailable, match=rf"delivery tag {tag}.*1 to 5"):
            finish(publisher)
        assert publisher.unconfirmed_count == 5
        proxy.tag = None
        finish(publisher)
        assert publisher.unconfirmed_count == 0
    assert set(task_ids(take_all(amqp_url, "celery"))) == set(ids)


def test_an_ack_without_multiple_is_of_one_message(amqp_url: str) -> None:
    """With several queues acks come out of order: those before it may still be refused."""
    with (
        LyingRabbitMQ(urlsplit(amqp_url).port or 0) as proxy,
        publishing(make_app(behind(amqp_url, proxy)), timeout_seconds=1) as publisher,
    ):
        function = publisher.prepare("shop.send")
        publisher.declare()
        proxy.tag, proxy.multiple = 5, False
        ids = add(publisher, function, 5)
        with pytest.raises(BrokerUnavailable, match="did not confirm in time"):
            finish(publisher)
        assert publisher.unconfirmed_count == 5
        proxy.tag = None
        finish(publisher)
    assert set(task_ids(take_all(amqp_url, "celery"))) == set(ids)


@pytest.mark.parametrize("multiple", [False, True])
def test_a_nack_with_multiple_is_of_all_before_it(amqp_url: str, multiple: bool) -> None:
    with (
        LyingRabbitMQ(urlsplit(amqp_url).port or 0) as proxy,
        publishing(make_app(behind(amqp_url, proxy)), timeout_seconds=1) as publisher,
    ):
        function = publisher.prepare("shop.send")
        publisher.declare()
        proxy.tag, proxy.multiple, proxy.method = 5, multiple, 120
        ids = add(publisher, function, 5)
        with pytest.raises(
            PublishRefused if multiple else BrokerUnavailable,
            match=r"refused 5 messages.*\(nack\)" if multiple else "did not confirm in time",
        ):
            finish(publisher)
        assert publisher.unconfirmed_count == 5
        proxy.tag = None
        finish(publisher)
        assert publisher.unconfirmed_count == 0
    assert set(task_ids(take_all(amqp_url, "celery"))) == set(ids)
