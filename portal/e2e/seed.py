"""Writes what no API makes into the database of a gateway, for tests.

seed.py DATABASE devices COUNT      many devices, copied from one that is there
seed.py DATABASE hostile ID TEXTS   what an agent that wants to do harm says of itself
"""

import json
import sqlite3
import sys

path, what, *args = sys.argv[1:]
db = sqlite3.connect(path, timeout=60)


def devices(count):
    columns = [r[1] for r in db.execute("PRAGMA table_info(devices)")]
    values = {
        "id": "printf('01a20baf-%04x-7000-8000-%012x', i / 65536, i)",
        "name": "printf('sensor-%06d', i)",
        "display_name": "CASE WHEN i % 3 = 0 THEN printf('Sensor %d', i) ELSE '' END",
        "display_name_folded": "CASE WHEN i % 3 = 0 THEN printf('sensor %d', i) ELSE '' END",
        "group_name": "printf('group-%d', i % 50)",
        "public_key": "randomblob(32)",
        "created_at": "o.created_at + i",
        "last_seen_at": "CASE WHEN i % 7 = 0 THEN 0 ELSE o.created_at - (i * 7919 % 1000003) * 1000 END",
        "disabled_at": "CASE WHEN i % 1000 = 0 THEN o.created_at ELSE 0 END",
        "hostname": "printf('host-%d', i)",
        "hostname_folded": "printf('host-%d', i)",
        "version": "printf('1.%d', i % 20)",
        "remote_addr": "printf('198.51.%d.%d', i / 256 % 256, i % 256)",
        "os": "'linux'",
        "arch": "'arm64'",
    }
    account, now = db.execute("SELECT account_id, created_at FROM devices LIMIT 1").fetchone()
    for i in range(50):
        db.execute(
            "INSERT INTO device_groups (account_id, name, created_at) VALUES (?, ?, ?)",
            (account, f"group-{i}", now),
        )
    db.execute(
        f"""WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}),
        o AS (SELECT * FROM devices LIMIT 1)
        INSERT INTO devices ({", ".join(columns)})
        SELECT {", ".join(values.get(c, "o." + c) for c in columns)} FROM n, o"""
    )
    db.execute(
        """INSERT INTO tunnels (account_id, device_id, destination, ssh)
        SELECT account_id, id, 'tcp://localhost:22', 1 FROM devices WHERE name LIKE 'sensor-%'"""
    )
    db.execute(
        """UPDATE device_groups SET devices = (SELECT COUNT(*) FROM devices d
        WHERE d.account_id = device_groups.account_id AND d.group_name = device_groups.name)"""
    )


def hostile(device, texts):
    account, now = db.execute(
        "SELECT account_id, created_at FROM devices WHERE id = ?", (device,)
    ).fetchone()
    a, b, c, d, e = texts
    db.execute(
        """UPDATE devices SET os = ?, arch = ?, kernel = ?, hostname = ?, hostname_folded = ?, version = ?,
        remote_addr = ?, local_addrs = ?, ssh_host_key = ?, quarantined_at = created_at, quarantine_reason = ?
        WHERE id = ?""",
        (a, b, c, d, d.lower(), e, c, json.dumps(texts), "ssh-ed25519 " + a, a, device),
    )
    db.execute(
        "INSERT INTO tunnels (account_id, device_id, destination, ssh) VALUES (?, ?, 'tcp://localhost:9', 0)",
        (account, device),
    )
    for i, text in enumerate(texts):
        db.execute(
            """INSERT INTO events (id, account_id, at, type, device_id, device_name, object_id, message)
            VALUES (?, ?, ?, 'device.changed', ?, ?, '', ?)""",
            (f"01a20baf-0000-7000-8000-{i:012x}", account, now, device, text, text),
        )


with db:
    if what == "devices":
        devices(int(args[0]))
    elif what == "hostile":
        hostile(args[0], json.loads(args[1]))
    else:
        sys.exit(__doc__)
