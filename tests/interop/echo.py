#!/usr/bin/env python3
"""Sends the number of frames of the second argument to the WebSocket echo of the first one, and
reads each back. Prints how many came back as they were; or the status of a denied handshake."""

import sys

import websockets.sync.client
from websockets.exceptions import InvalidStatus

try:
    with websockets.sync.client.connect(sys.argv[1], proxy=None) as connection:
        echoed = 0
        for index in range(int(sys.argv[2])):
            # Frames that look like requests are frames.
            frame = f"GET /secret HTTP/1.1\r\n\r\n{index}" + "x" * (index % 300)
            connection.send(frame)
            echoed += connection.recv(timeout=20) == frame
        print(echoed)
except InvalidStatus as error:
    print(error.response.status_code)
