"""Every type of ``pg_catalog`` that a column can have, by its name, and its caster."""

from __future__ import annotations

from collections.abc import Mapping

from walex_celery.events.values.datetime import cast_date, cast_time, cast_timestamp
from walex_celery.events.values.definition import Caster
from walex_celery.events.values.identifier import cast_cidr, cast_inet, cast_uuid
from walex_celery.events.values.interval import cast_interval
from walex_celery.events.values.json import Numbers, cast_json, cast_json_decimal
from walex_celery.events.values.numeric import cast_float, cast_int, cast_int_vector, cast_money, cast_numeric
from walex_celery.events.values.range import multirange_caster, range_caster
from walex_celery.events.values.text import as_text, cast_bool, cast_bytea

# Those whose Python value is Postgres' own text. An unknown name has the same caster; they are named
# here so that a test can find types that were forgotten.
_TEXT = """
    text varchar bpchar char name xml refcursor unknown
    bit varbit macaddr macaddr8 tid pg_lsn txid_snapshot pg_snapshot aclitem
    point lseg path box polygon line circle
    tsvector gtsvector tsquery jsonpath
    regproc regprocedure regoper regoperator regclass regtype regrole regnamespace
    regconfig regdictionary regcollation regdatabase
    pg_node_tree pg_ndistinct pg_dependencies pg_mcv_list pg_brin_bloom_summary pg_brin_minmax_multi_summary
"""

_RANGES: Mapping[str, Caster] = {
    "int4": range_caster(cast_int),
    "int8": range_caster(cast_int),
    "num": range_caster(cast_numeric),
    "date": range_caster(cast_date),
    "ts": range_caster(cast_timestamp),
    "tstz": range_caster(cast_timestamp),
}

BUILTINS: Mapping[str, Caster] = {
    **dict.fromkeys(_TEXT.split(), as_text),
    **dict.fromkeys(("smallint", "integer", "bigint", "int2", "int4", "int8"), cast_int),
    **dict.fromkeys(("oid", "oid8", "xid", "xid8", "cid"), cast_int),
    **dict.fromkeys(("int2vector", "oidvector"), cast_int_vector),
    **dict.fromkeys(("float4", "float8"), cast_float),
    "numeric": cast_numeric,
    "money": cast_money,
    "bool": cast_bool,
    "bytea": cast_bytea,
    "uuid": cast_uuid,
    "json": cast_json,
    "jsonb": cast_json,
    "date": cast_date,
    "time": cast_time,
    "timetz": cast_time,
    "timestamp": cast_timestamp,
    "timestamptz": cast_timestamp,
    "interval": cast_interval,
    "inet": cast_inet,
    "cidr": cast_cidr,
    **{f"{name}range": cast for name, cast in _RANGES.items()},
    **{f"{name}multirange": multirange_caster(cast) for name, cast in _RANGES.items()},
}

#: The same by what the numbers of documents are.
BY_NUMBERS: Mapping[Numbers, Mapping[str, Caster]] = {
    "auto": BUILTINS,
    "decimal": {**BUILTINS, "json": cast_json_decimal, "jsonb": cast_json_decimal},
}
