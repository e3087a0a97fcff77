"""A server that speaks as much of S3 as pyarrow's client asks for, in memory, failing when told to.

One bucket, called `lab`; signatures are not looked at.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "lab"


class S3Server(ThreadingHTTPServer):
    """Keeps objects by key."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.lock = threading.Lock()
        self.failing = 0.0
        """Share of requests answered by 503."""
        self.down = False
        self.denied = False
        self.log: list[str] = []
        self.draws = random.Random(0)

    def uri(self, folder: str, bucket: str = BUCKET) -> str:
        host = f"127.0.0.1%3A{self.server_address[1]}"
        return f"s3://key:secret@{bucket}/{folder}?endpoint_override={host}&scheme=http&region=us-east-1"


@contextmanager
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    server: S3Server

    def handle_expect_100(self) -> bool:
        going_on = super().handle_expect_100()
        self.wfile.flush()
        return going_on

    def log_message(self, *_: object) -> None:
        return

    def _serve(self) -> None:
        body = self._body()
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        with self.server.lock:
            self.server.log.append(f"{self.command} {key} {url.query}")
            if self.server.down or self.server.draws.random() < self.server.failing:
                self._error(503, "SlowDown")
            elif self.server.denied:
                self._error(403, "AccessDenied")
            elif bucket != BUCKET:
                self._error(404, "NoSuchBucket")
            else:
                self._answer(key, query, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _body(self) -> bytes:
        raw = b"".join(self._arriving())
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return raw
        content = bytearray()
        while raw:  # size;signature, data, ..., then a checksum
            head, _, raw = raw.partition(b"\r\n")
            size = int(head.partition(b";")[0], 16)
            if not size:
                break
            content += raw[:size]
            raw = raw[size + 2 :]
        return bytes(content)

    def _arriving(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding") != "chunked":
            yield self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _answer(self, key: str, query: dict[str, str], body: bytes) -> None:
        objects = self.server.objects
        match self.command:
            case "PUT" if "partNumber" in query:
                self.server.parts[query["uploadId"]][int(query["partNumber"])] = body
                self._send(200, headers={"ETag": _etag(body)})
            case "PUT":
                objects[key] = body
                self._send(200, headers={"ETag": _etag(body)})
            case "POST" if "uploads" in query:
                name = f"upload-{len(self.server.parts)}"
                self.server.parts[name] = {}
                self._xml(
                    f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
                )
            case "POST" if "uploadId" in query:
                parts = self.server.parts.pop(query["uploadId"])
                objects[key] = b"".join(parts[number] for number in sorted(parts))
                self._xml("<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")
            case "DELETE":
                objects.pop(key, None)
                self._send(204)
            case "GET" if "list-type" in query:
                self._list(query)
            case "HEAD" if not key:
                self._send(200, headers={"x-amz-bucket-region": "us-east-1"})
            case "GET" | "HEAD" if key in objects:
                self._object(objects[key])
            case _:
                self._error(404, "NoSuchKey")

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        files, folders = [], set()
        for key in sorted(self.server.objects):
            rest = key.removeprefix(prefix)
            if not key.startswith(prefix):
                continue
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                files.append(key)
        files = files[: int(query.get("max-keys", 1000))]
        rows = [
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.server.objects[key])}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key in files
        ]
        rows += [
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders)
        ]
        count = f"<KeyCount>{len(rows)}</KeyCount><IsTruncated>false</IsTruncated>"
        self._xml(f"<ListBucketResult>{count}{''.join(rows)}</ListBucketResult>")

    def _object(self, content: bytes) -> None:
        headers = {"ETag": _etag(content), "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        range_header = self.headers.get("Range")
        if self.command == "GET" and range_header:
            first, _, last = range_header.removeprefix("bytes=").partition("-")
            part = content[int(first) : int(last) + 1 if last else None]
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
            self._send(206, part, headers)
        else:
            self._send(200, content, headers)

    def _xml(self, text: str) -> None:
        self._send(200, f"<?xml version='1.0'?>{text}".encode(), {"Content-Type": "application/xml"})

    def _error(self, status: int, code: str) -> None:
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
        self._send(status, text.encode(), {"Content-Type": "application/xml"})

    def _send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _etag(content: bytes) -> str:
    return f'"{len(content)}"'
