#!/usr/bin/env python3
"""A small API server: lists, streaming lists and watches, over TLS, of the objects in a file of JSON.

    list_watch.py OBJECTS CERTIFICATE KEY TOKEN PORT

OBJECTS holds a list of objects, and is read again when it changes. Every kind in it is served under
the path that its apiVersion and kind give it; the paths of other kinds hold empty lists. Conditions
that are applied to an object's status are part of it from then on. What is written is appended to
OBJECTS.writes, one JSON object a line.

If OBJECTS is a directory, it holds a cluster too large to be read again and again: the objects of
the path /api/v1/pods are in the file `api.v1.pods`, one JSON object a line, of resource version 1,
and all changes in the file `changes`, which grows: lines of a version (2, 3, …), a type, a path
and an object, separated by spaces. They are served in pages (there are no streaming lists); what is
written is accepted and forgotten. When the last page of a path has been sent, that path and the
time are appended to `listed`.
"""

import http.server
import itertools
import json
import os
import re
import ssl
import sys
import threading
import time
import zlib
from urllib.parse import parse_qs, urlsplit

OBJECTS, CERTIFICATE, KEY, TOKEN, PORT = sys.argv[1:]
# Interval at which the file is read, seconds.
PERIOD = 0.05
# The same for the changes of a large cluster.
PERIOD_LARGE = 0.01
IS_LARGE = os.path.isdir(OBJECTS)


# Conditions that were applied, by path, namespace and name; events by namespace and name.
CONDITIONS, EVENTS, LOCK = {}, set(), threading.Lock()
PATCHES = 0


def version():
    return os.stat(OBJECTS).st_mtime_ns + PATCHES


def log_write(**write):
    with open(OBJECTS + ".writes", "a", encoding="utf-8") as file:
        file.write(json.dumps(write) + "\n")


def collection(item):
    kind, api = item["kind"].lower(), item["apiVersion"]
    plural = kind[:-1] + "ies" if kind.endswith("y") else kind + "s"
    return f"/{'apis' if '/' in api else 'api'}/{api}/{plural}"


def objects(path):
    """The resource version, and the objects of a path by namespace and name."""
    now = version()
    with open(OBJECTS, encoding="utf-8") as file:
        items = [item for item in json.load(file) if collection(item) == path]
    name = lambda item: (item["metadata"].get("namespace"), item["metadata"]["name"])
    for item in items:
        metadata = item["metadata"]
        metadata["resourceVersion"] = str(now)
        metadata["uid"] = "-".join(["uid", *filter(None, name(item))])
        metadata["generation"] = zlib.crc32(json.dumps(item.get("spec")).encode())
        applied = CONDITIONS.get((path, *name(item)))
        if applied:
            item["status"] = {"conditions": list(applied.values())}
    return now, {name(item): item for item in items}


KINDS = ["Pod", "Namespace", "Node", "Service", "EndpointSlice", "NetworkPolicy", "CiliumNetworkPolicy",
         "CiliumClusterwideNetworkPolicy", "CiliumCIDRGroup", "ClusterNetworkPolicy"]


def kind_at(path):
    """The kind and the API version of the objects of a path."""
    version = path.strip("/").split("/", 1)[1].rsplit("/", 1)[0]
    kinds = (kind for kind in KINDS if collection({"kind": kind, "apiVersion": version}) == path)
    return next(kinds, ""), version


def listing(path, items, version, token=""):
    kind, version_of = kind_at(path)
    return {"kind": kind + "List", "apiVersion": version_of, "items": items,
            "metadata": {"resourceVersion": version, "continue": token}}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.fail(401, "Unauthorized")
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        watches = query.get("watch") in (["1"], ["true"])
        if IS_LARGE:
            return self.follow(url.path, query) if watches else self.page(url.path, query)
        if watches:
            return self.watch(url.path, query)
        now, found = objects(url.path)
        self.answer(200, listing(url.path, list(found.values()), str(now)))

    def page(self, path, query):
        """A page of a large list; its continue token is a place in the file."""
        file = os.path.join(OBJECTS, path.strip("/").replace("/", "."))
        if not os.path.exists(file):
            return self.answer(200, listing(path, [], "1"))
        with open(file, "rb") as file:
            file.seek(int(query.get("continue", ["0"])[0]))
            lines = list(itertools.islice(file, int(query.get("limit", ["500"])[0])))
            place = file.tell()
            more = file.read(1) != b""
        empty = json.dumps(listing(path, [], "1", str(place) if more else "")).encode()
        begin, end = empty.split(b"[]")
        self.answer_bytes(200, b"%s[%s]%s" % (begin, b",".join(lines), end))
        if not more:
            with LOCK, open(os.path.join(OBJECTS, "listed"), "a", encoding="utf-8") as file:
                file.write(f"{time.time()} {path}\n")
        return None

    def follow(self, path, query):
        """The changes of a large cluster after a version, and those to come."""
        if query.get("sendInitialEvents") == ["true"]:
            return self.fail(422, "sendInitialEvents is forbidden for watch")
        after = int(query.get("resourceVersion", ["1"])[0])
        self.begin_events()
        with open(os.path.join(OBJECTS, "changes"), "rb") as file:
            rest = b""
            while True:
                # A line may be incomplete.
                *lines, rest = (rest + file.read()).split(b"\n")
                for line in lines:
                    version, kind, of, item = line.split(b" ", 3)
                    if of == path.encode() and int(version) > after:
                        self.event_bytes(b'{"type":"%s","object":%s}\n' % (kind, item))
                time.sleep(PERIOD_LARGE)

    def written(self):
        """The body of a request that may write; None if it may not."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.fail(401, "Unauthorized")
        return body

    def do_PATCH(self):
        global PATCHES
        body = self.written()
        if body is None:
            return None
        url = urlsplit(self.path)
        parts = re.fullmatch(r"(/apis/[^/]+/[^/]+)(?:/namespaces/([^/]+))?/([^/]+)/([^/]+)/status",
                             url.path)
        path, name = f"{parts[1]}/{parts[3]}", (parts[2], parts[4])
        if IS_LARGE:
            return self.answer(200, body)
        if name not in objects(path)[1]:
            return self.fail(404, "not found")
        manager = parse_qs(url.query)["fieldManager"][0]
        with LOCK:
            applied = CONDITIONS.setdefault((path, *name), {})
            for condition in body["status"]["conditions"]:
                applied[condition["type"]] = condition
            PATCHES += 1
            log_write(manager=manager, **body)
        self.answer(200, body)

    def do_POST(self):
        body = self.written()
        if body is None:
            return None
        if IS_LARGE:
            return self.answer(201, body)
        name = (body["metadata"]["namespace"], body["metadata"]["name"])
        with LOCK:
            if name in EVENTS:
                return self.fail(409, "already exists")
            EVENTS.add(name)
            log_write(**body)
        self.answer(201, body)

    def fail(self, code, message):
        self.answer(code, {"kind": "Status", "apiVersion": "v1", "status": "Failure",
                           "message": message, "code": code})

    def answer(self, code, body):
        self.answer_bytes(code, json.dumps(body).encode())

    def answer_bytes(self, code, body):
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def watch(self, path, query):
        seen, known = objects(path)
        streams = query.get("sendInitialEvents") == ["true"]
        if not streams and query.get("resourceVersion") != [str(seen)]:
            # There is no history of objects: the client has to list again.
            return self.fail(410, "too old resource version")
        self.begin_events()
        if streams:
            for item in known.values():
                self.event("ADDED", item)
            end = {"resourceVersion": str(seen),
                   "annotations": {"k8s.io/initial-events-end": "true"}}
            kind, version_of = kind_at(path)
            self.event("BOOKMARK", {"kind": kind, "apiVersion": version_of, "metadata": end})
        while True:
            time.sleep(PERIOD)
            if version() == seen:
                continue
            seen, found = objects(path)
            for name, item in found.items():
                if name not in known:
                    self.event("ADDED", item)
                elif any(item.get(part) != known[name].get(part) for part in ("spec", "status")):
                    self.event("MODIFIED", item)
            for name in known.keys() - found.keys():
                self.event("DELETED", known[name])
            known = found

    def begin_events(self):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def event(self, kind, item):
        self.event_bytes(json.dumps({"type": kind, "object": item}).encode() + b"\n")

    def event_bytes(self, line):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64


server = Server(("127.0.0.1", int(PORT)), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE, KEY)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
