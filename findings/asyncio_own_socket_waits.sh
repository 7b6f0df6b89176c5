#!/usr/bin/env bash
# Python 3.11.7 (asyncio), uvicorn 0.54.0, starlette 1.10.0 (PyPI), Linux 6; 2026-11-30
#
# A server opens its socket itself, to know its port or to hear early that the port is taken, and hands it to uvicorn:
# Server.run(sockets=[socket.socket(AF_INET)]). One would expect what uvicorn does with a socket of its own. Seen: asyncio
# sets TCP_NODELAY on connections only if their socket names the protocol, and those accepted from such a socket have
# protocol 0, as it has. uvicorn writes the head of an answer and its body one after the other, so that the kernel holds
# the body back until the client has acknowledged the head, and clients that keep a connection do so after 40 ms. With
# socket.socket(AF_INET, SOCK_STREAM, IPPROTO_TCP) nothing waits. Chromium got an answer after 95 ms that had taken 47 ms
# to compute. The option, and whether the median of 40 answers on one connection is above 35 ms:
#
#   protocol 0: TCP_NODELAY 0, an answer takes 40 ms or more: True
#   protocol 6: TCP_NODELAY 1, an answer takes 40 ms or more: False
#
# Exits with 1 if it is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet uvicorn==0.54.0 starlette==1.10.0 h11==0.16.0

cat >show.py <<'PYTHON'
import socket
import statistics
import sys
import threading
import time

import uvicorn
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol


async def app(scope, receive, send):
    await Response(b"x" * 3000)(scope, receive, send)


def answers(port):
    """Seconds of 40 answers on one connection."""
    taken = []
    with socket.create_connection(("127.0.0.1", port)) as client:
        for _ in range(40):
            begun, got = time.perf_counter(), b""
            client.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            while not got.endswith(b"x" * 3000):
                got += client.recv(65536)
            taken.append(time.perf_counter() - begun)
    return taken


seen = []
for protocol in (0, socket.IPPROTO_TCP):
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
    listening.bind(("127.0.0.1", 0))
    options = []

    class Looking(H11Protocol):
        def connection_made(self, transport):
            super().connection_made(transport)
            options.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning", loop="asyncio", http=Looking))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    slow = statistics.median(answers(listening.getsockname()[1])) > 0.035
    server.should_exit = True
    thread.join()
    print(f"protocol {protocol}: TCP_NODELAY {min(options[0], 1)}, an answer takes 40 ms or more: {slow}")
    seen.append((options[0] > 0, slow))
sys.exit(seen != [(False, True), (True, False)])
PYTHON
venv/bin/python show.py && echo "an own socket waits" || { echo "not so"; exit 1; }
