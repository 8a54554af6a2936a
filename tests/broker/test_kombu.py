"""Any other transport: what its publish refuses is not taken as done, nor published twice (promise 1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.broker.support import ARGSREPR, VALUE, make_app, new_id, publishing, send
from walex_celery.errors import BrokerUnavailable, PublishRefused


def test_a_task_that_can_not_be_published_is_published_later(tmp_path: Path) -> None:
    """Kombu's own transport of files, whose folder is gone for a while."""
    folder = tmp_path / "messages"
    folder.mkdir()
    options = {
        "data_folder_in": str(folder),
        "data_folder_out": str(folder),
        "control_folder": str(tmp_path / "control"),
    }
    app = make_app("filesystem://", broker_transport_options=options)
    with publishing(app) as publisher:
        function = publisher.prepare("shop.send")
        ids = [new_id() for _ in range(3)]
        send(publisher, function, ids[0])
        away = folder.rename(tmp_path / "away")
        for task_id in ids[1:]:
            publisher.add(function, task_id, VALUE, ARGSREPR)
        for _ in range(2):
            with pytest.raises(PublishRefused, match=r"refused (task|its queues)"):
                publisher.flush()
            with pytest.raises(BrokerUnavailable, match="did not take all messages"):
                publisher.confirm()
        assert publisher.unconfirmed_count == 2
        away.rename(folder)
        publisher.flush()
        publisher.confirm()
        assert publisher.unconfirmed_count == 0

    with app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        found = []
        while (message := channel.basic_get("celery", no_ack=True)) is not None:
            found.append(message.headers["id"])
    # Those of one millisecond are in any order.
    assert sorted(found) == sorted(ids)
