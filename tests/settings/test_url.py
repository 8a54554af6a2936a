"""The url as libpq reads it, and libpq's own parameters."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from tests.settings.support import SECRET, load
from walex_celery import ConfigurationError
from walex_celery.settings.model import load_settings
from walex_celery.settings.url import parse_url, without_password


def test_the_url_says_it_all() -> None:
    settings = load(
        database=None, url=f"postgresql://me:{SECRET}@db:6432/shop?sslmode=verify-full&sslrootcert=ca.pem"
    )

    assert settings.address() == "me@db:6432/shop"
    assert settings.password == SecretStr(SECRET)
    assert (settings.sslmode, settings.sslrootcert) == ("verify-full", "ca.pem")


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("postgres://db/shop", {"hostname": "db", "database": "shop"}),
        ("postgresql:///shop", {"database": "shop"}),
        ("postgresql://db/sh%2Fop%3F", {"hostname": "db", "database": "sh/op?"}),
        ("postgresql://m%40e:p%2Fa%3Fs%23s%25@db/sh%20op", {
            "hostname": "db", "username": "m@e", "password": "p/a?s#s%", "database": "sh op",
        }),
        ("postgresql://me:a@b@db/shop", {
            "hostname": "db", "username": "me", "password": "a@b", "database": "shop",
        }),
        ("postgresql://[::1]:6432/shop", {"hostname": "::1", "port": 6432, "database": "shop"}),
        ("postgresql://%2FTmp%2FPg/shop", {"hostname": "/Tmp/Pg", "database": "shop"}),
        ("postgresql://me@Db1:6432,[::1]:6433,db3/shop", {
            "hostname": "Db1,::1,db3", "port": "6432,6433,5432", "username": "me", "database": "shop",
        }),
        ("postgresql://db1,db2/shop", {"hostname": "db1,db2", "database": "shop"}),
        ("postgresql:///shop?host=/Tmp/Pg&port=6432&user=me&password=a+b", {
            "hostname": "/Tmp/Pg", "port": "6432", "username": "me", "password": "a+b", "database": "shop",
        }),
        ("postgresql://other:1/shop?host=db&port=6432", {
            "hostname": "db", "port": "6432", "database": "shop",
        }),
    ],
)  # fmt: skip
def test_a_url_is_read_as_libpq_reads_it(url: str, parts: dict[str, object]) -> None:
    assert parse_url(url) == parts


def test_further_parameters_of_libpq_come_with_the_url() -> None:
    """As the urls of managed services have them."""
    url = "postgresql://db/shop?sslmode=require&channel_binding=require&target_session_attrs=read-write"
    settings = load_settings({"name": "shop", "url": url, "publication": "events"}, {})
    assert settings.sslmode == "require"
    assert settings.libpq == {"channel_binding": "require", "target_session_attrs": "read-write"}


def test_application_name_and_options_come_with_the_url() -> None:
    settings = load(
        database=None, url="postgresql://db/shop?application_name=cdc&options=-c%20work_mem%3D1MB"
    )

    assert settings.connection_settings().application_name == "cdc"
    assert settings.libpq == {"application_name": "cdc", "options": "-c work_mem=1MB"}


@pytest.mark.parametrize(
    ("parameter", "reason"),
    [
        ("client_encoding", "values are read as UTF-8"),
        ("replication", "the producer opens connections with and without it"),
        ("sslpassword", "it would be shown"),
        ("password", "set password="),
        ("host", "set hostname="),
        ("sslmode", "set sslmode="),
    ],
)
def test_parameters_that_the_producer_depends_on_are_refused(parameter: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"can't be given here: {parameter} \({reason}") as caught:
        load_settings(
            {"name": "x", "url": "postgresql://db/x", "publication": "e", "libpq": {parameter: "hunter2"}}, {}
        )
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://me:{SECRET}@db:6432/shop", "postgresql://me:***@db:6432/shop"),
        (f"postgresql://me:{SECRET}@db/sh%2Fop", "postgresql://me:***@db/sh%2Fop"),
        (
            f"postgresql://me@db/shop?password={SECRET}&target_session_attrs=any",
            "postgresql://me:***@db/shop",
        ),
        (f"postgresql://me@db/shop?sslpassword={SECRET}", "***"),
        (f"mysql://me:{SECRET}@db/shop", "***"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown
