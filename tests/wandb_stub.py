"""A local server that answers wandb's requests as far as a run needs, and a reader of its local files."""

import contextlib
import json
import struct
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from wandb.proto import wandb_internal_pb2

DAY = "2026-01-01T00:00:00"
END = {"hasNextPage": False, "endCursor": None}  # of a list of one page


class Stub(ThreadingHTTPServer):
    """Knows runs and keeps the rows of their histories in the order in which they come."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.rows, self.summary, self.opened, self.dead = {}, {}, threading.Event(), False
        self.reports = []  # that were saved, as variables of their requests
        self.sweeps = []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def die(self):
        self.dead = True


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_PUT(self):
        self._body()
        self._answer({})

    def do_POST(self):
        body = self._body()
        if self.server.dead:
            return self.close_connection
        query, variables = body.get("query", ""), body.get("variables", {})
        if "upsertBucket" in query:
            self.server.opened.set()
            project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "lab"}}
            bucket = {
                "id": "b",
                "name": variables["name"],
                "displayName": "",
                "description": "",
                "config": "{}",
                "sweepName": None,
                "project": project,
                "historyLineCount": 0,
            }
            self._answer({"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}})
        elif "createArtifact(" in query:  # of a table; as if it were on the server already
            collection = {"id": "c", "latestArtifact": {"id": "a", "versionIndex": 0}}
            artifact = {"id": "a", "state": "COMMITTED", "artifactSequence": collection}
            self._answer({"data": {"createArtifact": {"artifact": artifact}}})
        elif "ArtifactType(" in query:
            self._answer({"data": {"project": {"artifact": None}}})
        elif "query Runs(" in query:
            self._answer({"data": {"project": self._runs(json.loads(variables["filters"]))}})
        elif "GetProjects" in query:
            project = {"id": "p", "name": "srgan_dist", "entityName": "lab", "createdAt": DAY}
            project |= {"isBenchmark": False, "user": None}
            found = {"edges": [{"node": project, "cursor": "a"}], "pageInfo": END}
            self._answer({"data": {"models": found}})
        elif "upsertSweep" in query:
            self.server.sweeps.append(variables)
            project = {"id": "p", "name": "srgan_dist", "entity": {"id": "e", "name": "lab"}}
            sweep = {"name": "sweep123", "project": project}
            self._answer({"data": {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}})
        elif "upsertView" in query:
            self.server.reports.append(variables)
            project = {"id": "p", "name": variables["projectName"], "entityName": variables["entityName"]}
            view = {key: variables[key] for key in ("name", "displayName", "description", "spec")}
            self._answer(
                {"data": {"upsertView": {"view": view | {"id": "VmlldzoxMjM=", "project": project}}}}
            )
        elif "viewer" in query:
            self._answer({"data": {"viewer": {"id": "e", "username": "lab", "entity": "lab"}}})
        elif "createRunFiles" in query:
            files = [
                {"name": name, "uploadUrl": f"{self.server.address}/{name}"} for name in variables["files"]
            ]
            self._answer({"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}})
        elif self.path.endswith("file_stream"):
            files = body.get("files") or {}
            rows = self.server.rows.setdefault(self.path.split("/")[-2], [])
            rows += [json.loads(line) for line in files.get("wandb-history.jsonl", {}).get("content", [])]
            for line in files.get("wandb-summary.json", {}).get("content", []):
                self.server.summary = json.loads(line)
            self._answer({})
        else:
            self._answer({"data": {}})

    def _runs(self, filters):
        """Return the runs of a project that have sent rows, as far as filters on their ids let them pass."""
        chosen = [name for name in self.server.rows if name in filters["name"]["$in"]]
        nodes = [{"id": name, "name": name, "displayName": name, "projectId": "1"} for name in chosen]
        nodes = [node | {"state": "finished", "createdAt": DAY} for node in nodes]
        edges = [{"node": node, "cursor": node["name"]} for node in nodes]
        return {"internalId": "1", "runCount": len(edges), "runs": {"edges": edges, "pageInfo": END}}

    def _body(self):
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with contextlib.suppress(ValueError):
            return json.loads(raw)
        return {}

    def _answer(self, content):
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def serving():
    """Run a Stub."""
    with Stub() as stub:
        thread = threading.Thread(target=stub.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield stub
        finally:
            stub.shutdown()
            thread.join()


def read_records(path):
    """Read a .wandb file: LevelDB log blocks of protobuf records, each with its crc."""
    data, position, part, found = path.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        crc, size, kind = struct.unpack("<IHB", data[position : position + 7])
        body = data[position + 7 : position + 7 + size]
        assert zlib.crc32(body, zlib.crc32(bytes([kind]))) == crc
        position += 7 + size
        part = body if kind in (1, 2) else part + body
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            found.append(record)
    return found


def offline_records(folder):
    """Return the records of each of wandb's sessions in a run directory, in the order of their starts."""
    return [read_records(path) for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]


def history(records):
    """Return the logged rows of a session, without wandb's own columns."""
    rows = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            row = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            rows.append(own_columns(row))
    return rows


def own_columns(row):
    return {name: value for name, value in row.items() if not name.startswith("_")}
