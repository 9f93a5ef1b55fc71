#!/usr/bin/env python3
"""Traffic of the cluster test. SIGTERM ends it.

usage:
  probe.py hammer ADDRESS...         TCP and UDP to every address; the answers are not awaited
  probe.py steady ADDRESS            requests to port 8080, and one echo connection to port 9000
  probe.py silent ADDRESS PORT       connection attempts; prints how many were answered
  probe.py latency PID ADDRESS COUNT of policy changes: the time until they are in force, seen by
                                     connection attempts from the network namespace of PID
Each prints one line at the end. Exit code 1: `steady` had a failure, `silent` had an answer.
"""
import ctypes
import errno
import http.client
import json
import os
import select
import signal
import socket
import ssl
import struct
import sys
import time

LAB = "/var/tmp/podgate-cluster"
running = True


def end(*_):
    global running
    running = False


def attempt(address, port):
    """Begins a connection that is reset when it is closed."""
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.setblocking(False)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    result = connection.connect_ex((address, port))
    return connection, result


def hammer(addresses):
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    rounds = 0
    while running:
        attempts = []
        for address in addresses:
            attempts.append(attempt(address, 8080)[0])
            try:
                datagrams.sendto(b"probe", (address, 8080))
            except OSError:
                pass  # an ICMP error of a packet before
        time.sleep(0.03)
        for connection in attempts:
            connection.close()
        rounds += 1
    print(f"{rounds} rounds")
    return 0


def steady(address):
    echo = socket.create_connection((address, 9000), timeout=2)
    requests, failures = 0, []
    while running:
        try:
            echo.sendall(b"ping")
            if echo.recv(4) != b"ping":
                failures.append("the echo connection was closed")
        except OSError as error:
            failures.append(f"echo: {error}")
        try:
            client = http.client.HTTPConnection(address, 8080, timeout=2)
            client.request("GET", "/")
            if client.getresponse().read() != b"served\n":
                failures.append("another page")
            client.close()
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"request: {error}")
        requests += 1
        time.sleep(0.01)
    print(f"{requests} requests, {len(failures)} failures: {sorted(set(failures))}")
    return 1 if failures or not requests else 0


def silent(address, port):
    attempts, answers = 0, 0
    while running:
        connection, result = attempt(address, port)
        if result == errno.EINPROGRESS and select.select([], [connection], [], 0.05)[1]:
            result = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            answers += result in (0, errno.ECONNREFUSED)
        connection.close()
        attempts += 1
    print(f"{attempts} attempts, {answers} answers")
    return 1 if answers or not attempts else 0


class Changer:
    """Writes a policy that permits port 9999 of web, or does not."""

    def __init__(self):
        context = ssl.create_default_context(cafile=f"{LAB}/ca.crt")
        self.api = http.client.HTTPSConnection("192.168.77.1", 6443, context=context)
        self.path = "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies"
        self.exists = False

    def set(self, permitted):
        port = 9999 if permitted else 9998
        policy = {
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "latency", "namespace": "shop"},
            "spec": {"podSelector": {"matchLabels": {"app": "web"}},
                     "ingress": [{"ports": [{"port": port, "protocol": "TCP"}]}]},
        }
        method, path = ("PUT", f"{self.path}/latency") if self.exists else ("POST", self.path)
        headers = {"Authorization": "Bearer lab-admin", "Content-Type": "application/json"}
        self.api.request(method, path, json.dumps(policy), headers)
        response = self.api.getresponse()
        response.read()
        if response.status not in (200, 201):
            sys.exit(f"the API server answers {response.status}")
        self.exists = True


class Attempts:
    """Connection attempts to a port without a listener: a reset shows that the packet arrived."""

    def __init__(self, address):
        self.address = address
        self.open = []  # (when it was sent, connection)
        self.poll = select.poll()

    def send(self):
        connection, _ = attempt(self.address, 9999)
        self.open.append((time.monotonic(), connection))

    def answered(self):
        """When the attempts that were answered since had been sent."""
        poll = select.poll()
        by_number = {}
        for entry in self.open:
            poll.register(entry[1], select.POLLOUT)
            by_number[entry[1].fileno()] = entry
        sent = []
        for number, _ in poll.poll(0):
            entry = by_number[number]
            sent.append(entry[0])
            self.open.remove(entry)
            entry[1].close()
        return sent

    def expire(self, seconds):
        """When the attempts that had no answer for this long had been sent."""
        limit = time.monotonic() - seconds
        sent = [when for when, _ in self.open if when < limit]
        for when, connection in self.open:
            if when < limit:
                connection.close()
        self.open = [entry for entry in self.open if entry[0] >= limit]
        return sent

    def until(self, seen, begin):
        """Sends an attempt each millisecond, until `seen` returns the time of a change."""
        while running and time.monotonic() < begin + 10:
            self.send()
            time.sleep(0.001)
            if (at := seen()) is not None:
                return at
        sys.exit("a change is not in force after 10 s")

    def clear(self):
        for _, connection in self.open:
            connection.close()
        self.open = []


def one_change(changer, attempts, permitted):
    begin = time.monotonic()
    changer.set(permitted)
    if permitted:
        def seen():
            return min((at for at in attempts.answered() if at >= begin), default=None)
    else:
        def seen():
            attempts.answered()
            return min(attempts.expire(0.2), default=None)
    at = attempts.until(seen, begin)
    attempts.clear()
    return at - begin


def latency(pid, address, count):
    changer = Changer()
    changer.set(False)
    # Sockets that exist stay in the namespace that they were made in.
    with open(f"/proc/{pid}/ns/net", encoding="ascii") as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0) != 0:
            sys.exit(f"setns: {os.strerror(ctypes.get_errno())}")
    attempts = Attempts(address)
    one_change(changer, attempts, True)
    one_change(changer, attempts, False)
    times = sorted(one_change(changer, attempts, bool(n % 2 == 0)) for n in range(count))
    shown = [times[int(len(times) * share)] * 1000 for share in (0.5, 0.9, 0.99)]
    print("{} changes, from the request until in force: p50 {:.1f} ms, p90 {:.1f} ms, "
          "p99 {:.1f} ms, longest {:.1f} ms".format(count, *shown, times[-1] * 1000))
    return 0


def main():
    signal.signal(signal.SIGTERM, end)
    match sys.argv[1:]:
        case ["hammer", *addresses]:
            return hammer(addresses)
        case ["steady", address]:
            return steady(address)
        case ["silent", address, port]:
            return silent(address, int(port))
        case ["latency", pid, address, count]:
            return latency(int(pid), address, int(count))
    sys.exit(__doc__)


sys.exit(main())
