"""Two made-up tasks: one to make a template of, and one, full of traps, to prove the template by.

Both are events, because a callable router may look into them.
"""

from __future__ import annotations

TASK_ID = "5e471e10-0000-8000-9000-77616c657801"
VALUE = (
    b'{"name":"walex_sentinel","type":"insert","source":{"name":"WalEx","version":"0","db":"walex",'
    b'"schema":"public","table":"walex_sentinel","columns":{"id":"int8"}},"new_record":{"id":1},'
    b'"timestamp":"2024-01-01T00:00:00Z","lsn":"0/0","index":0}'
)
ARGSREPR = "walex-argsrepr-sentinel"

PROOF_TASK_ID = "5e471e10-0000-8000-9000-77616c657802"
PROOF_VALUE = VALUE.replace(b'{"id":1}', r'{"id":1.50,"__type__":"\"\\ \ud800 %s {} é\u2028😀"}'.encode())
PROOF_ARGSREPR = "<Event 'x' \"é\" %s {0} 😀 \\ id=42 lsn=0/16B3748>"
