#!/usr/bin/env python3
"""Prints header blocks of connections, as PyPI's hpack (4.2.0) encodes them.

Usage: generate.py CONNECTIONS [SEED]. Each line is a JSON array of one connection's blocks. A block is
an array of: the limit of the table that is set before it (or `null`), the block in hexadecimal, and its
fields, each as name, value and whether it must never be indexed. Names and values are bytes, as Latin-1
text.
"""

import json
import random
import sys

from hpack import Encoder, HeaderTuple, NeverIndexedHeaderTuple

NAMES = [
    ":method", ":path", ":scheme", ":authority", ":status", "accept", "accept-encoding", "cookie",
    "content-type", "content-length", "user-agent", "x-request-id", "grpc-timeout", "te", "date",
    "authorization", "set-cookie", "x", "traceparent",
]
VALUES = [
    "GET", "POST", "/", "/index.html", "/docs/a?b=c", "http", "https", "200", "404", "302", "*/*",
    "gzip, deflate", "application/grpc", "text/plain", "trailers", "", "0", "curl/8.5.0", "a=b; c=d",
    "Mon, 21 Oct 2013 20:13:21 GMT",
]


def text(rng, longest):
    letters = [chr(c) for c in range(256)] if rng.randrange(4) == 0 else [chr(c) for c in range(32, 127)]
    return "".join(rng.choice(letters) for _ in range(rng.randrange(longest)))


def field(rng):
    name = rng.choice(NAMES) if rng.randrange(5) else text(rng, 12).lower()
    value = rng.choice(VALUES) if rng.randrange(4) else text(rng, rng.choice([5, 40, 40, 200]))
    kind = NeverIndexedHeaderTuple if rng.randrange(8) == 0 else HeaderTuple
    return kind(name.encode("latin-1"), value.encode("latin-1"))


def connection(rng):
    encoder = Encoder()
    blocks = []
    for _ in range(rng.randint(1, 12)):
        limit = rng.choice([None] * 6 + [0, 64, 256, 1024, 4096])
        if limit is not None:
            encoder.header_table_size = limit
        fields = [field(rng) for _ in range(rng.randint(0, 12))]
        block = encoder.encode(fields, huffman=rng.randrange(3) > 0)
        shown = [[n.decode("latin-1"), v.decode("latin-1"), not f.indexable] for f in fields for n, v in [f]]
        blocks.append([limit, block.hex(), shown])
    return blocks


def main():
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    for _ in range(int(sys.argv[1])):
        print(json.dumps(connection(rng), separators=(",", ":"), ensure_ascii=False))


main()
