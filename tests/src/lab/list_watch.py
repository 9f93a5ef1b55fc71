#!/usr/bin/env python3
"""A small API server: lists and watches, over TLS, of the objects in a file of JSON.

    list_watch.py OBJECTS CERTIFICATE KEY TOKEN PORT

OBJECTS holds a list of objects, and is read again when it changes. Every kind in it is served under
the path that its apiVersion and kind give it; the paths of other kinds hold empty lists.
"""

import http.server
import json
import os
import ssl
import sys
import time
from urllib.parse import parse_qs, urlsplit

OBJECTS, CERTIFICATE, KEY, TOKEN, PORT = sys.argv[1:]
# Interval at which the file is read, seconds.
PERIOD = 0.05


def version():
    return os.stat(OBJECTS).st_mtime_ns


def collection(item):
    kind, api = item["kind"].lower(), item["apiVersion"]
    plural = kind[:-1] + "ies" if kind.endswith("y") else kind + "s"
    return f"/{'apis' if '/' in api else 'api'}/{api}/{plural}"


def objects(path):
    """The resource version, and the objects of a path by namespace and name."""
    now = version()
    with open(OBJECTS, encoding="utf-8") as file:
        items = [item for item in json.load(file) if collection(item) == path]
    for item in items:
        item["metadata"]["resourceVersion"] = str(now)
    name = lambda item: (item["metadata"].get("namespace"), item["metadata"]["name"])
    return now, {name(item): item for item in items}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.fail(401, "Unauthorized")
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if query.get("watch") in (["1"], ["true"]):
            return self.watch(url.path, query["resourceVersion"][0])
        now, found = objects(url.path)
        self.answer(200, {"kind": "List", "apiVersion": "v1",
                          "metadata": {"resourceVersion": str(now)},
                          "items": list(found.values())})

    def fail(self, code, message):
        self.answer(code, {"kind": "Status", "apiVersion": "v1", "status": "Failure",
                           "message": message, "code": code})

    def answer(self, code, body):
        body = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def watch(self, path, since):
        seen, known = objects(path)
        if since != str(seen):
            # There is no history of objects: the client has to list again.
            return self.fail(410, "too old resource version")
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while True:
            time.sleep(PERIOD)
            if version() == seen:
                continue
            seen, found = objects(path)
            for name, item in found.items():
                if name not in known:
                    self.event("ADDED", item)
                elif item.get("spec") != known[name].get("spec"):
                    self.event("MODIFIED", item)
            for name in known.keys() - found.keys():
                self.event("DELETED", known[name])
            known = found

    def event(self, kind, item):
        line = json.dumps({"type": kind, "object": item}).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64


server = Server(("127.0.0.1", int(PORT)), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE, KEY)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
