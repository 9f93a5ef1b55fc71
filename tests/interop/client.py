#!/usr/bin/env python3
"""Sends `METHOD PATH` requests to the server of the first argument by one requests.Session, and
prints the status of each response. A POST has a body of 20,000 bytes."""

import sys

import requests

session = requests.Session()
session.trust_env = False
for request in sys.argv[2:]:
    method, path = request.split(" ")
    body = "x" * 20_000 if method == "POST" else None
    response = session.request(method, sys.argv[1] + path, data=body, timeout=20)
    print(response.status_code, response.text.strip())
