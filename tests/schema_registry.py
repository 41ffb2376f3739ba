"""A schema registry for tests: Confluent's HTTP interface on a real port, kept in memory.

It checks no compatibility. Protobuf schemas come as FileDescriptorProtos in base64, as Confluent's
Python serializer posts them, or as the text of our own; it answers with the former.
"""

from __future__ import annotations

import json
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, get_args
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import NAMESPACE_URL, uuid5

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from nextclick.shared.kafka.schema_registry import contracts
from nextclick.shared.schemas import AnswerSchema

Answer = tuple[int, Any]


def as_posted(file: FileDescriptorProto) -> str:
    """A Protobuf file as Confluent's Python serializer posts it."""
    return b64encode(file.SerializeToString()).decode()


OURS = (
    contracts.protobuf_click(),
    *(contracts.protobuf_recommendation(schema) for schema in get_args(AnswerSchema)),
)
SERIALIZED = {contracts.proto_text(file): as_posted(file) for file in OURS}


@dataclass
class Registry:
    """What the server has, and what is wrong with it."""

    schemas: list[dict[str, Any]] = field(default_factory=list)
    """By id, from 1 on."""
    subjects: dict[str, list[int]] = field(default_factory=dict)
    """Ids of the versions."""
    requests: list[str] = field(default_factory=list)
    """Method and path of all that came."""
    status: int = 0
    """Answer everything with this; 0: be well."""
    delay: float = 0.0
    login: str = ""
    """user:password that is demanded."""
    not_json: bool = False
    url: str = ""

    def register(self, subject: str, text: str, kind: str = "AVRO", **more: Any) -> int:
        """Add a version; returns the id of the schema."""
        schema = {"schemaType": kind, "schema": text, **more}
        if schema not in self.schemas:
            self.schemas.append(schema)
        schema_id = self.schemas.index(schema) + 1
        versions = self.subjects.setdefault(subject, [])
        if schema_id not in versions:
            versions.append(schema_id)
        return schema_id

    def guid(self, schema_id: int) -> str:
        return str(uuid5(NAMESPACE_URL, json.dumps(self.schemas[schema_id - 1])))

    def answer(self, method: str, path: str, body: Any) -> Answer:
        """What to answer, if all is well."""
        parts = [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]
        match method, parts:
            case "GET", ["schemas", "types"]:
                return 200, ["AVRO", "JSON", "PROTOBUF"]
            case "GET", ["schemas", "ids", text]:
                return self._schema(int(text))
            case "GET", ["schemas", "guids", text]:
                ids = range(1, len(self.schemas) + 1)
                return self._schema(next((i for i in ids if self.guid(i) == text), 0))
            case "GET", ["schemas", "ids", text, "versions"]:
                found = [
                    {"subject": subject, "version": ids.index(int(text)) + 1}
                    for subject, ids in self.subjects.items()
                    if int(text) in ids
                ]
                return 200, found
            case "GET", ["config", *_]:
                return 200, {"compatibilityLevel": "NONE"}
            case "POST", ["subjects", subject, "versions"]:
                return self._version(subject, self._registered(subject, body))
            case "POST", ["subjects", subject]:
                known = self._of(body)
                if known not in self.schemas:
                    return 404, {"error_code": 40403, "message": "Schema not found"}
                return self._version(subject, self.schemas.index(known) + 1)
            case "GET", ["subjects", subject, "versions", text]:
                ids = self.subjects.get(subject, [])
                if not ids:
                    return 404, {"error_code": 40401, "message": f"Subject '{subject}' not found."}
                return self._version(subject, ids[-1 if text == "latest" else int(text) - 1])
        return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}

    @staticmethod
    def _of(body: Any) -> dict[str, Any]:
        schema = {"schemaType": body.get("schemaType", "AVRO"), "schema": body["schema"]}
        return schema | ({"references": r} if (r := body.get("references")) else {})

    def _registered(self, subject: str, body: Any) -> int:
        schema = self._of(body)
        return self.register(subject, schema.pop("schema"), schema.pop("schemaType"), **schema)

    def _schema(self, schema_id: int) -> Answer:
        if not 1 <= schema_id <= len(self.schemas):
            return 404, {"error_code": 40403, "message": f"Schema {schema_id} not found"}
        schema = self.schemas[schema_id - 1]
        text = SERIALIZED.get(schema["schema"], schema["schema"])
        return 200, {**schema, "guid": self.guid(schema_id), "schema": text}

    def _version(self, subject: str, schema_id: int) -> Answer:
        ids = self.subjects.get(subject, [])
        if schema_id not in ids:
            return 404, {"error_code": 40401, "message": f"Subject '{subject}' not found."}
        version = {"subject": subject, "version": ids.index(schema_id) + 1, "id": schema_id}
        return 200, version | self._schema(schema_id)[1]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    registry: Registry


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        registry = self.server.registry
        registry.requests.append(f"{self.command} {self.path}")
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        time.sleep(registry.delay)
        expected = f"Basic {b64encode(registry.login.encode()).decode()}"
        if registry.status:
            status, content = registry.status, {"error_code": 50001, "message": "as the test wants"}
        elif registry.login and self.headers.get("Authorization") != expected:
            status, content = 401, {"error_code": 401, "message": "Unauthorized"}
        else:
            status, content = registry.answer(self.command, self.path, body)
        text = b"<html>" if registry.not_json else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = _answer  # noqa: N815  names of http.server

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""


@contextmanager
def serving(registry: Registry, port: int = 0) -> Iterator[int]:
    """Answer on a port of this machine, a free one if it is 0, until the end of the block."""
    server = _Server(("127.0.0.1", port), _Handler)
    server.registry = registry
    registry.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def formats_asked_for(registry: Registry) -> set[str]:
    """The values of ?format= that came."""
    queries = [parse_qs(urlsplit(request).query) for request in registry.requests]
    return {value for query in queries for value in query.get("format", [])}
