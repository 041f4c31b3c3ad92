"""A real S3 server on loopback, with a proxy before it that breaks requests."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

BUCKET = "clips"


class Faults:
    """Breaks requests that go through it to an S3 server.

    Attributes:
        plan: faults still to come: (method, part of the path, fault), each for one request. Faults
            are cut (the connection ends in the middle of the body), slow (no answer for a while),
            503, and wrong (one byte of the body is another).
        met: the faults that requests have met.
        requests: (method, path) of all requests.
    """

    def __init__(self, port: int) -> None:
        self.plan: list[tuple[str, str, str]] = []
        self.met: list[str] = []
        self.requests: list[tuple[str, str]] = []
        self.slow_seconds = 2.5
        self._lock = threading.Lock()
        faults = self

        class Handler(_Handler):
            def fault(self) -> str:
                return faults._next(self.command, self.path)

            upstream = port
            slow_seconds = property(lambda _: faults.slow_seconds)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, method: str, path: str, *faults: str) -> None:
        self.plan += [(method, path, fault) for fault in faults]

    def _next(self, method: str, path: str) -> str:
        with self._lock:
            self.requests.append((method, path))
            for number, (wanted, part, fault) in enumerate(self.plan):
                if wanted == method and part in path:
                    self.met.append(fault)
                    del self.plan[number]
                    return fault
        return ""

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream = 0
    slow_seconds = 0.0

    def fault(self) -> str:
        raise NotImplementedError

    def _pass_on(self) -> None:
        fault = self.fault()
        length = int(self.headers.get("Content-Length") or 0)
        if fault == "cut" and self.command == "PUT":
            self.rfile.read(length // 2)
            self._hang_up()
            return
        body = self.rfile.read(length)
        if fault == "slow":
            time.sleep(self.slow_seconds)
        if fault == "503":
            answer = b"<Error><Code>ServiceUnavailable</Code><Message>later</Message></Error>"
            self._answer(503, [("Content-Type", "application/xml")], answer)
            return
        if fault == "wrong" and self.command == "PUT":
            body = _flipped(body)
        upstream = http.client.HTTPConnection("127.0.0.1", self.upstream)
        upstream.request(self.command, self.path, body, dict(self.headers))
        response = upstream.getresponse()
        content = response.read()
        headers = response.getheaders()
        upstream.close()
        if fault == "wrong" and self.command == "GET":
            content = _flipped(content)
            headers = [each for each in headers if "checksum" not in each[0].lower()]
        self._answer(response.status, headers, content, cut=fault == "cut")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on  # noqa: N815

    def _answer(
        self, status: int, headers: list[tuple[str, str]], content: bytes, cut: bool = False
    ) -> None:
        try:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            length = {n.lower(): v for n, v in headers}.get("content-length", len(content))
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if cut else content)
        except OSError:  # who asked has given up
            self.close_connection = True
        if cut:
            self._hang_up()

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.connection.close()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def _flipped(content: bytes) -> bytes:
    """The content with one bit of its middle byte flipped."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """The port of an S3 server on loopback."""
    pytest.importorskip("s3fs", reason="the extra s3 is not installed")
    pytest.importorskip("moto.server", reason="moto, an S3 server, is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield port
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def faults(s3_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """An empty bucket behind a proxy that breaks requests when it is told to.

    This machine's mirror is the folder `here` of the test; waits and timeouts are short.
    """
    import shared.object_store as object_store
    from shared.mirror_sync import pull

    faults = Faults(s3_port)
    for name, value in {
        "AWS_ENDPOINT_URL": faults.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "MOFO_MIRROR": str(tmp_path / "here"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(object_store, "WAITS", (0.01,) * 6)
    monkeypatch.setattr(object_store, "TIMEOUT_SECONDS", 2)
    pull.cache_clear()
    connection = http.client.HTTPConnection("127.0.0.1", s3_port)
    connection.request("POST", "/moto-api/reset")
    assert connection.getresponse().status == 200
    store = object_store._store()
    store.clear_instance_cache()  # connections to the proxy of another test
    object_store._store().mkdir(BUCKET)
    yield faults
    faults.close()
