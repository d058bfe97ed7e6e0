"""The part of the Hugging Face Hub's API that reads and writes one model, over a folder.

The client is the Hub's own: what is checked is that vidgen and it understand each other.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from pathlib import Path
from urllib.parse import unquote, urlparse

import fsspec
import pytest
from huggingface_hub import constants


@contextlib.contextmanager
def serve(repositories: Path):
    """Serve OWNER/NAME of a folder, and let the client of this process ask there."""
    handler = type("Handler", (_Handler,), {"repositories": repositories})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        with pytest.MonkeyPatch.context() as patch:
            url = f"http://127.0.0.1:{server.server_port}"
            patch.setattr(constants, "ENDPOINT", url)
            patch.setattr(
                constants,
                "HUGGINGFACE_CO_URL_TEMPLATE",
                url + "/{repo_id}/resolve/{revision}/{filename}",
            )
            patch.setenv("HF_TOKEN", "hf_anything")
            fsspec.get_filesystem_class("hf").clear_instance_cache()
            yield
        server.shutdown()
        thread.join()
    fsspec.get_filesystem_class("hf").clear_instance_cache()


class _Handler(http.server.BaseHTTPRequestHandler):
    repositories: Path

    def log_message(self, *_):
        pass

    def answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        path = unquote(urlparse(self.path).path)
        if model := re.fullmatch(r"/api/models/(\w+/\w+)", path):
            if (self.repositories / model[1]).is_dir():
                return self.answer({"id": model[1], "sha": "a" * 40, "siblings": []})
            return self.answer({}, 404, X_Error_Code="RepoNotFound")
        if tree := re.fullmatch(r"/api/models/(\w+/\w+)/tree/main(?:/(.*))?", path):
            return self.answer(self.tree(self.repositories / tree[1], tree[2] or ""))
        if file := re.fullmatch(r"/(\w+/\w+)/resolve/main/(.*)", path):
            place = self.repositories / file[1] / file[2]
            if place.is_file():
                return self.answer(place.read_bytes(), ETag="x", X_Repo_Commit="a" * 40)
        return self.answer({}, 404, X_Error_Code="EntryNotFound")

    do_HEAD = do_GET

    def tree(self, model, under):
        found = sorted((model / under).rglob("*"))
        return [
            {
                "type": "file" if path.is_file() else "directory",
                "path": path.relative_to(model).as_posix(),
                "size": path.stat().st_size if path.is_file() else 0,
                "oid": hashlib.sha1(path.read_bytes() if path.is_file() else b"").hexdigest(),
            }
            for path in found
        ]

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/validate-yaml":  # of a model card
            return self.answer({"errors": [], "warnings": []})
        if re.fullmatch(r"/api/models/\w+/\w+/preupload/main", self.path):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        if commit := re.fullmatch(r"/api/models/(\w+/\w+)/commit/main", self.path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    place = self.repositories / commit[1] / line["value"]["path"]
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(base64.b64decode(line["value"]["content"]))
            address = f"{constants.ENDPOINT}/{commit[1]}/commit/{'b' * 40}"
            return self.answer({"commitUrl": address, "commitOid": "b" * 40})
        return self.answer({}, 404, X_Error_Code="EntryNotFound")
