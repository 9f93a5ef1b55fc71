#!/usr/bin/env python3
"""HTTP/1 servers of Python in one process, on the ports from the first argument on: http.server,
aiohttp, cheroot, and a WebSocket echo at /docs/echo.

Each answers any path with what it saw, and prints every request as `SERVER METHOD PATH`.
"""

import asyncio
import http
import http.server
import sys
import threading

import aiohttp.web
import cheroot.wsgi
import websockets.sync.server


def saw(server, method, path):
    print(server, method, path, flush=True)
    return f"saw {method} {path}\n".encode()


class Handler(http.server.BaseHTTPRequestHandler):
    """Like most handlers, it reads no body of a GET."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        body = saw("http.server", self.command, self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_DELETE = do_OPTIONS = answer

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer()

    def log_message(self, *_):
        pass


async def serve_aiohttp(port):
    async def handle(request):
        await request.read()
        return aiohttp.web.Response(body=saw("aiohttp", request.method, request.path))

    app = aiohttp.web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, "0.0.0.0", port).start()
    await asyncio.Event().wait()


def wsgi(environ, start_response):
    environ["wsgi.input"].read()
    body = saw("cheroot", environ["REQUEST_METHOD"], environ["PATH_INFO"])
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def echo(connection):
    for message in connection:
        connection.send(message)


def log_handshake(_, request):
    saw("websockets", "GET", request.path)


def main():
    port = int(sys.argv[1])
    servers = [
        http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler).serve_forever,
        lambda: asyncio.run(serve_aiohttp(port + 1)),
        cheroot.wsgi.Server(("0.0.0.0", port + 2), wsgi).safe_start,
        websockets.sync.server.serve(
            echo, "0.0.0.0", port + 3, process_request=log_handshake
        ).serve_forever,
    ]
    threads = [threading.Thread(target=server) for server in servers]
    for thread in threads:
        thread.start()


main()
