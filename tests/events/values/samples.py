"""Values of every built-in type: an SQL expression, and the Python value that it must become.

``test_builtin.py`` sends each through a real server, alone, in arrays and in rows; a type of the server
that has no entry here is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import ip_network
from typing import Any
from uuid import UUID

from walex_celery.events.values import Interval, Range
from walex_celery.events.values.identifier import IPv4Interface, IPv6Interface

#: The Postgres under test. The wheel has no libxml; the npm packages of the other majors have.
OTHER_POSTGRES = os.environ.get("WALEX_TEST_POSTGRES")
MAJOR = int(OTHER_POSTGRES or 18)

EMPTY = Range(bounds="()", empty=True)
INDIA = timezone(timedelta(hours=5, minutes=30))
AMSTERDAM_1930 = timezone(timedelta(minutes=19, seconds=32))
TEXTS = [
    "",
    " ",
    "a b",
    "NULL",
    "null",
    'say "x"',
    "back\\slash",
    "it's {a,b}",
    "line\nfeed\ttab",
    "żółw 🐢",
    "t",
]


def quoted(text: str) -> str:
    return "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SAMPLES: Mapping[str, list[tuple[str, Any]]] = {
    # numbers
    "int2": [("'-32768'", -32768), ("0", 0), ("32767", 32767)],
    "int4": [("'-2147483648'", -(2**31)), ("2147483647", 2**31 - 1)],
    "int8": [
        ("'-9223372036854775808'", -(2**63)),
        ("9007199254740993", 2**53 + 1),
        ("'9223372036854775807'", 2**63 - 1),
    ],
    "oid": [("0", 0), ("4294967295", 2**32 - 1)],
    "xid": [("'3'", 3), ("'4294967295'", 2**32 - 1)],
    "xid8": [("'18446744073709551615'", 2**64 - 1)],
    "cid": [("'7'", 7)],
    "int2vector": [("'1 -2 3'", [1, -2, 3]), ("''", [])],
    "oidvector": [("'1 4294967295'", [1, 2**32 - 1]), ("''", [])],
    "float4": [
        ("0.1", 0.1),
        ("'NaN'", float("nan")),
        ("'-Infinity'", float("-inf")),
        ("1e-45", 1e-45),
        ("3.4028235e38", 3.4028235e38),
    ],
    "float8": [
        ("0.1", 0.1),
        ("0.30000000000000004", 0.30000000000000004),
        ("'-0'", -0.0),
        ("'NaN'", float("nan")),
        ("'Infinity'", float("inf")),
        ("5e-324", 5e-324),
        ("1.7976931348623157e308", 1.7976931348623157e308),
    ],
    "numeric": [
        ("0", Decimal(0)),
        ("1.10", Decimal("1.10")),
        ("'-0.000000000000000000001'", Decimal("-1e-21")),
        ("'NaN'", Decimal("NaN")),
        ("'Infinity'", Decimal("Infinity")),
        ("'-Infinity'", Decimal("-Infinity")),
        (f"'{'123456789' * 100}.{'987654321' * 100}'", Decimal(f"{'123456789' * 100}.{'987654321' * 100}")),
    ],
    "money": [
        ("'0'", Decimal("0.00")),
        ("'1234567.8'", Decimal("1234567.80")),
        ("'-92233720368547758.08'", Decimal("-92233720368547758.08")),
        ("'-0.5'", Decimal("-0.50")),
    ],
    # truth, texts, bytes
    "bool": [("true", True), ("false", False)],
    "text": [(quoted(text), text) for text in TEXTS],
    "varchar": [(quoted(text), text) for text in TEXTS],
    "bpchar": [("'a  '", "a  "), ("''", "")],
    "name": [("'Odd name'", "Odd name")],
    '"char"': [("'a'", "a"), *([("'\\377'", "\\377")] if MAJOR >= 16 else []), ("''", "")],
    "refcursor": [("'c1'", "c1")],
    "bytea": [("''", b""), ("'\\x00ff5c22'", b'\x00\xff\\"')],
    "bit": [("B'1'", "1"), ("B'0'", "0")],
    "varbit": [("B'101'", "101"), ("B''", "")],
    # documents
    "json": [
        ("""' {"b": 1.10,\n "a": null, "a": [true]}'""", {"b": 1.1, "a": [True]}),
        ("'1e400'", Decimal("1e400")),
        ("'1e99999999999999999999'", "1e99999999999999999999"),
        (r"""'"\ud800"'""", "\ud800"),
        (r"""'"\u0000"'""", "\0"),
        ("'null'", None),
    ],
    "jsonb": [
        ("""'{"__type__": "x", "__value__": [1, {}, []]}'""", {"__type__": "x", "__value__": [1, {}, []]}),
        ("'0.1234567890123456789'", Decimal("0.1234567890123456789")),
        (
            "'[123456789012345678901234567890, 1.0, -0.1, 1e2, 1e-7]'",
            [123456789012345678901234567890, 1.0, -0.1, 100, 1e-7],
        ),
        ("""'"a\\nb \\" \\\\ ż"'""", 'a\nb " \\ ż'),
        ("'null'", None),
        ("'false'", False),
    ],
    **({"xml": [("'<a b=\"1\">x &amp; y</a>'", '<a b="1">x &amp; y</a>')]} if OTHER_POSTGRES else {}),
    "jsonpath": [("'$.a[*] ? (@ > 1)'", '$."a"[*]?(@ > 1)')],
    # times
    "date": [
        ("'2024-02-29'", date(2024, 2, 29)),
        ("'0001-01-01'", date(1, 1, 1)),
        ("'9999-12-31'", date(9999, 12, 31)),
        ("'10000-01-01'", "10000-01-01"),
        ("'5874897-12-31'", "5874897-12-31"),
        ("'0044-03-15 BC'", "0044-03-15 BC"),
        ("'infinity'", "infinity"),
        ("'-infinity'", "-infinity"),
    ],
    "time": [
        ("'00:00'", time(0)),
        ("'12:30:01.5'", time(12, 30, 1, 500000)),
        ("'23:59:59.999999'", time(23, 59, 59, 999999)),
        ("'24:00'", "24:00:00"),
    ],
    "timetz": [
        ("'12:30+05:30'", time(12, 30, tzinfo=INDIA)),
        ("'01:02:03.004+00:19:32'", time(1, 2, 3, 4000, tzinfo=AMSTERDAM_1930)),
        ("'00:00-15:59:59'", time(0, tzinfo=timezone(-timedelta(hours=15, minutes=59, seconds=59)))),
        ("'24:00+00'", "24:00:00+00"),
    ],
    "timestamp": [
        ("'2024-02-29 12:30:01.000001'", datetime(2024, 2, 29, 12, 30, 1, 1)),
        ("'0001-01-01'", datetime(1, 1, 1)),
        ("'9999-12-31 23:59:59.999999'", datetime.max),
        ("'10000-01-01'", "10000-01-01 00:00:00"),
        ("'294276-12-31 23:59:59.999999'", "294276-12-31 23:59:59.999999"),
        ("'0044-03-15 BC'", "0044-03-15 00:00:00 BC"),
        ("'infinity'", "infinity"),
        ("'-infinity'", "-infinity"),
    ],
    "timestamptz": [
        ("'2024-07-01 12:30:01.5 Europe/Amsterdam'", datetime(2024, 7, 1, 10, 30, 1, 500000, tzinfo=UTC)),
        ("'0001-01-01 00:00+00'", datetime(1, 1, 1, tzinfo=UTC)),
        ("'9999-12-31 23:59:59.999999+00'", datetime.max.replace(tzinfo=UTC)),
        ("'9999-12-31 23:00-05'", "10000-01-01 04:00:00+00"),
        ("'0044-03-15 00:00+00 BC'", "0044-03-15 00:00:00+00 BC"),
        ("'infinity'", "infinity"),
        ("'-infinity'", "-infinity"),
    ],
    "interval": [
        ("'0'", Interval()),
        ("'1 year 2 mons -3 days 04:05:06.789'", Interval(14, -3, 14_706_789_000)),
        ("'-1 mons +2 days -00:00:01.5'", Interval(-1, 2, -1_500_000)),
        ("'1 day -00:00:00.000001'", Interval(0, 1, -1)),
        ("'-178000000 years'", Interval(-178000000 * 12)),
        ("'2147483647 days 2147483646:59:59'", Interval(0, 2147483647, 7_730_941_129_199_000_000)),
        *(
            [("'2147483647 days 2562047788:00:54.775807'", Interval(0, 2147483647, 2**63 - 1))]
            if MAJOR >= 15
            else []
        ),
        *([("'infinity'", "infinity"), ("'-infinity'", "-infinity")] if MAJOR >= 17 else []),
    ],
    # identifiers
    "uuid": [
        ("'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
        ("'00000000-0000-0000-0000-000000000000'", UUID(int=0)),
    ],
    "inet": [
        ("'192.168.0.5'", IPv4Interface("192.168.0.5/32")),
        ("'192.168.0.5/24'", IPv4Interface("192.168.0.5/24")),
        ("'::ffff:1.2.3.4/96'", IPv6Interface("::ffff:1.2.3.4/96")),
        ("'0.0.0.0/0'", IPv4Interface("0.0.0.0/0")),
        ("'2001:db8::1'", IPv6Interface("2001:db8::1/128")),
    ],
    "cidr": [
        ("'10.0.0.0/8'", ip_network("10.0.0.0/8")),
        ("'::/0'", ip_network("::/0")),
        ("'1.2.3.4'", ip_network("1.2.3.4/32")),
    ],
    "macaddr": [("'08-00-2B-01-02-03'", "08:00:2b:01:02:03")],
    "macaddr8": [("'08:00:2b:01:02:03:04:05'", "08:00:2b:01:02:03:04:05")],
    "pg_lsn": [("'16/B374D848'", "16/B374D848")],
    "tid": [("'(42,1)'", "(42,1)")],
    "txid_snapshot": [("'10:20:10,14'", "10:20:10,14")],
    "pg_snapshot": [("'10:20:10,14'", "10:20:10,14")],
    "aclitem": [("'postgres=r/postgres'", "postgres=r/postgres")],
    "regproc": [("'now'", "now")],
    "regprocedure": [("'lower(text)'", "lower(text)")],
    "regoper": [("'||/'", "||/")],
    "regoperator": [("'+(integer,integer)'", "+(integer,integer)")],
    "regclass": [("'pg_class'", "pg_class")],
    "regtype": [("'int8'", "bigint")],
    "regrole": [("'postgres'", "postgres")],
    "regnamespace": [("'public'", "public")],
    "regconfig": [("'english'", "english")],
    "regdictionary": [("'simple'", "simple")],
    "regcollation": [("""'"C"'""", '"C"')],
    # geometry and text search
    "point": [("'(1,2.5)'", "(1,2.5)")],
    "line": [("'{1,2,3}'", "{1,2,3}")],
    "lseg": [("'[(1,2),(3,4)]'", "[(1,2),(3,4)]")],
    "box": [("'(1,2),(3,4)'", "(3,4),(1,2)")],
    "path": [("'[(1,2),(3,4)]'", "[(1,2),(3,4)]"), ("'((1,2),(3,4))'", "((1,2),(3,4))")],
    "polygon": [("'((1,2),(3,4))'", "((1,2),(3,4))")],
    "circle": [("'<(1,2),3>'", "<(1,2),3>")],
    "tsvector": [("'a:1 \"b c\":2'", "'\"b' 'a':1 'c\"':2")],
    "tsquery": [("'a & !b'", "'a' & !'b'")],
    # ranges
    "int4range": [
        ("'[1,5]'", Range(1, 6)),
        ("'(,5)'", Range(None, 5, "()")),
        ("'empty'", EMPTY),
        ("'(,)'", Range(None, None, "()")),
    ],
    "int8range": [("'[1,9223372036854775807)'", Range(1, 2**63 - 1))],
    "numrange": [
        ("'[1.10,NaN]'", Range(Decimal("1.10"), Decimal("NaN"), "[]")),
        ("'(-1,]'", Range(Decimal(-1), None, "()")),
    ],
    "daterange": [
        ("'[2024-01-01,infinity)'", Range(date(2024, 1, 1), "infinity")),
        ("'[0044-03-15 BC,)'", Range("0044-03-15 BC", None)),
    ],
    "tsrange": [
        ("'[2024-01-01 12:00,2024-01-02]'", Range(datetime(2024, 1, 1, 12), datetime(2024, 1, 2), "[]"))
    ],
    "tstzrange": [
        (
            "'(2024-01-01 12:00+02,10000-01-01 00:00+00)'",
            Range(datetime(2024, 1, 1, 10, tzinfo=UTC), "10000-01-01 00:00:00+00", "()"),
        )
    ],
    "int4multirange": [("'{}'", []), ("'{[1,2],[5,),[3,4)}'", [Range(1, 4), Range(5, None)])],
    "int8multirange": [("'{(,)}'", [Range(None, None, "()")])],
    "nummultirange": [
        ("'{[1.5,2],(3,4)}'", [Range(Decimal("1.5"), Decimal(2), "[]"), Range(Decimal(3), Decimal(4), "()")])
    ],
    "datemultirange": [("'{[2024-01-01,2024-01-02]}'", [Range(date(2024, 1, 1), date(2024, 1, 3))])],
    "tsmultirange": [("'{[2024-01-01,infinity]}'", [Range(datetime(2024, 1, 1), "infinity", "[]")])],
    "tstzmultirange": [
        (
            "'{[2024-01-01 00:00+00,),(,2023-01-01 00:00+00)}'",
            [
                Range(None, datetime(2023, 1, 1, tzinfo=UTC), "()"),
                Range(datetime(2024, 1, 1, tzinfo=UTC), None),
            ],
        )
    ],
}

# No value of these can be written down, nor put into a column of a user's table.
WITHOUT_VALUES = {
    *(() if OTHER_POSTGRES else ("xml",)),
    "gtsvector",
    "pg_node_tree",
    "pg_ndistinct",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
}
