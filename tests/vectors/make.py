"""Makes the vectors, independently of fedmarket's code: own protobuf encoding, hashlib and one signing call.

    python tests/vectors/make.py

The files are committed; every implementation is held against them. They change only with a new format, by an ADR.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HERE = Path(__file__).parent


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def varint(n: int) -> bytes:
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*out, n])


def field(number: int, value: Any) -> bytes:
    """One protobuf field; zero values are left out, as proto3 does."""
    if isinstance(value, bool | int):
        return varint(number << 3) + varint(int(value)) if value else b""
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data if data else b""


def message(fields: list[tuple[int, Any]]) -> bytes:
    return b"".join(field(number, value) for number, value in fields)


# -- trees


def tree(records: dict[str, bytes]) -> dict[str, Any]:
    leaves = {key: sha(key.encode() + b"\0" + value) for key, value in records.items()}
    buckets: list[list[bytes]] = [[] for _ in range(256)]
    for key in sorted(records, key=str.encode):
        buckets[sha(key.encode())[0]].append(leaves[key])
    digests = [sha(b"".join(bucket)) for bucket in buckets]
    return {
        "records": {key: value.hex() for key, value in records.items()},
        "leaves": {key: leaf.hex() for key, leaf in leaves.items()},
        "buckets": {str(i): digests[i].hex() for i in range(256) if buckets[i]},
        "root": sha(b"".join(digests)).hex(),
        "count": len(records),
    }


def trees() -> list[dict[str, Any]]:
    many = {f"app/{100_000_100 + n}": f"record {n}".encode() * (n % 5) for n in range(1000)}
    return [
        tree({}),
        tree({"zone/0": b"\x0a\x06berlin"}),
        tree({"app/100": b"", "app/1000": b"a", "market/100": b"\0\xff"}),
        tree({"app/9": b"x", "app/10": b"y", "a/1": b"z", "x-new-kind/100": b"kept as it came"}),
        tree(many),
    ]


# -- heads


def head(seed: bytes, *, zone: int, catalog: int, epoch: int, seq: int, root: bytes, count: int,
         next_ids: dict[str, int], prev: bytes, agent: str, time_ms: int) -> dict[str, Any]:  # fmt: skip
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    ids = b"".join(field(7, message([(1, kind), (2, next_ids[kind])])) for kind in sorted(next_ids))
    body = (
        message([(1, zone), (2, catalog), (3, epoch), (4, seq), (5, root), (6, count)])
        + ids
        + message([(8, prev), (9, agent), (10, time_ms)])
    )
    signature = private.sign(b"fedmarket/head/1\0" + body)
    key_id = sha(public)[:16]
    return {
        "seed": seed.hex(),
        "public": public.hex(),
        "head": {
            "zone": zone, "catalog": catalog, "epoch": epoch, "seq": seq, "root": root.hex(), "count": count,
            "next_ids": next_ids, "prev": prev.hex(), "agent": agent, "time_ms": time_ms,
        },
        "body": body.hex(),
        "hash": sha(body).hex(),
        "key_id": key_id.hex(),
        "sig": signature.hex(),
        "signed": message([(1, body), (2, key_id), (3, signature)]).hex(),
    }  # fmt: skip


def heads() -> list[dict[str, Any]]:
    root = bytes.fromhex(tree({})["root"])
    first = head(bytes(32), zone=0, catalog=1, epoch=1, seq=1, root=root, count=0, next_ids={}, prev=b"",
                 agent="a1", time_ms=1_795_453_033_000)  # fmt: skip
    second = head(bytes(32), zone=0, catalog=1, epoch=1, seq=2, root=sha(b"some root"), count=3,
                  next_ids={"app": 102, "market": 101}, prev=bytes.fromhex(first["hash"]), agent="a1",
                  time_ms=1_795_453_034_000)  # fmt: skip
    private = head(bytes(range(32)), zone=2146, catalog=2, epoch=7, seq=2**40, root=sha(b"r"), count=100_000,
                   next_ids={"datastore": 1, "image": 2**31 - 1}, prev=sha(b"p"), agent="", time_ms=0)  # fmt: skip
    return [first, second, private]


# -- records


def envelope(payload: bytes, uid: bytes = bytes(range(16)), min_reader: int = 1) -> bytes:
    return message([(1, uid), (2, min_reader), (3, payload)])


def records() -> list[dict[str, Any]]:
    owner = message([(1, 100), (2, 0), (3, 0)])
    base_url = message([(1, "BASE_URL"), (2, "http://127.0.0.1:18080/c")])
    market = message([(1, "shared"), (2, owner), (3, 0o644), (5, "http"), (6, field(1, base_url)), (10, 1_795_453_033)])
    app = message([
        (1, "sample app"), (2, owner), (3, 0o600), (5, 1_795_454_918), (6, 100_000_100), (7, 1), (8, 1), (9, -1),
        (10, "http://127.0.0.1:18080/c/0011"), (11, "0011"), (12, "qcow2"), (13, bytes(16)), (14, sha(b"blob")),
        (15, 5_000_000_000), (16, 67_108_864),
    ])  # fmt: skip
    zone = message([(1, "tokyo"), (3, "127.0.0.1:7634"), (4, "http://127.0.0.1:7633"), (5, "127.0.0.1:7635")])
    made = [
        ("market/100000100", market, {"name": "shared", "mode": 0o644, "driver": "http"}),
        ("app/100000100", app, {"name": "sample app", "market_id": 100_000_100, "state": 1, "type": 1, "origin_id": -1,
                                "object": "0011", "size_bytes": 5_000_000_000, "virtual_bytes": 67_108_864}),
        ("zone/100", zone, {"name": "tokyo", "grpc_endpoint": "127.0.0.1:7634"}),
    ]  # fmt: skip
    return [
        {"key": key, "value": envelope(payload).hex(), "uid": bytes(range(16)).hex(), "fields": fields}
        for key, payload, fields in made
    ]


def keys() -> dict[str, Any]:
    return {
        "of_home": [
            [0, "app/100"], [0, "market/999999"], [0, "zone/0"], [100, "app/100000100"], [100, "zone/100"],
            [2146, "app/2146999999"], [7, "x-new-kind/7000100"],
        ],
        "not_of_home": [
            [0, "app/1000000"], [0, "zone/1"], [100, "app/100"], [100, "app/101000000"], [100, "zone/100000100"],
            [0, "head"], [0, "head/100"], [0, "lost/100"], [0, "app"], [0, "app/"], [0, "app/0100"], [0, "app/-1"],
            [0, "app/+1"], [0, "app/1 "], [0, "App/100"], [0, "app/100/x"], [0, "/app/100"], [0, "../zone/100"],
            [0, "app/１００"], [0, "9app/100"], [0, "app/100\n"], [0, ""], [0, "catalog/100/app/100"],
        ],
    }  # fmt: skip


def main() -> None:
    for name, content in {"trees": trees(), "heads": heads(), "records": records(), "keys": keys()}.items():
        (HERE / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
