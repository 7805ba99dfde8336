"""Models by name: a server on this machine that answers as the hub does, and what `from_pretrained` makes of it."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from minibert.check import SIZES, lively_
from minibert.config import BertConfig
from minibert.model import BertModel

ROOT = Path(__file__).resolve().parents[1]
COMMIT, OLDER = "a" * 40, "b" * 40
SECRET = "hf_not-a-real-one"

# huggingface_hub reads its settings when it is imported, so it has a process of its own: a line asks, a line answers.
CLIENT = """
import hashlib, json, os, sys, time
import minibert.model
if "WITHOUT" in os.environ:
    sys.modules["huggingface_hub"] = None
for line in sys.stdin:
    name, options, start = *json.loads(line), time.monotonic()
    try:
        model = minibert.model.BertModel.from_pretrained(name, **options)
        bits = b"".join(x.numpy().tobytes() for x in model.state_dict().values())
        answer = {"weights": hashlib.sha256(bits).hexdigest(), "folder": model.load_report.source}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer | {"seconds": time.monotonic() - start}), flush=True)
"""


class Hub(BaseHTTPRequestHandler):
    """Repositories in memory: name → revision → file → bytes."""

    def do_HEAD(self):
        self.answer(is_head=True)

    def do_GET(self):
        self.answer(is_head=False)

    def answer(self, is_head):
        server = self.server
        server.asked.append((self.command, self.path, self.headers.get("Authorization")))
        path = self.path.partition("?")[0]
        _, name, revision, file = re.fullmatch(r"(/api/models)?/(\w+/\w+)/re[a-z]+/([^/]+)(/.+)?", path).groups()
        commit = {"main": COMMIT, "v1": OLDER}.get(revision, revision)
        if name not in server.models:
            return self.send(404, {"X-Error-Code": "RepoNotFound"})
        if name == "org/private" and self.headers.get("Authorization") != f"Bearer {SECRET}":
            return self.send(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model is restricted"})
        if commit not in server.models[name]:
            return self.send(404, {"X-Error-Code": "RevisionNotFound"})
        files = server.models[name][commit]
        if file is None:
            siblings = [{"rfilename": known} for known in files]
            found = {"id": name, "modelId": name, "sha": commit, "private": False, "tags": [], "siblings": siblings}
            return self.send(200, {"Content-Type": "application/json"}, json.dumps(found).encode(), is_head)
        content = files[file[1:]]
        about = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        return self.send(200, about, content, is_head)

    def send(self, status, headers, content=b"", is_head=False):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not is_head:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def weights(model):
    return hashlib.sha256(b"".join(x.numpy().tobytes() for x in model.state_dict().values())).hexdigest()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models, as the hub might have them in several forms, and what their weights must be."""
    room, found = tmp_path_factory.mktemp("models"), {}
    new, old = (lively_(BertModel(BertConfig(**SIZES)), seed) for seed in (1, 2))
    for name, model in (("new", new), ("old", old)):
        model.save_pretrained(room / name)
    new.save_pretrained(room / "shards", max_shard_size="20KB")
    (room / "pickle").mkdir()
    shutil.copy(room / "new" / "config.json", room / "pickle")
    torch.save(new.state_dict(), room / "pickle" / "pytorch_model.bin")
    single, others = files_of(room / "new"), {"README.md": b"# A model", "tf_model.h5": b"x", "onnx/model.onnx": b"y"}
    pickle = files_of(room / "pickle")
    found["org/model"] = {COMMIT: single | others | pickle, OLDER: files_of(room / "old")}
    found["org/private"] = {COMMIT: single}
    found["org/shards"] = {COMMIT: files_of(room / "shards") | {"pytorch_model.bin": b"not asked for"}}
    found["org/pickle"] = {COMMIT: pickle}
    found["org/tensorflow"] = {COMMIT: {"config.json": single["config.json"], "tf_model.h5": b"x"}}
    return found, weights(new), weights(old)


@pytest.fixture(scope="module")
def server(models):
    hub = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    hub.models, hub.asked = models[0], []
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    yield hub
    hub.shutdown()
    hub.server_close()
    thread.join()


def client(folder, **settings):
    """A process that loads models, and a function that asks it for one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    quiet = {"HF_HOME": str(folder), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "*", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", CLIENT], cwd=ROOT, env=kept | quiet | settings, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip

    def ask(name, **options):
        process.stdin.write(json.dumps([name, options]) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    return process, ask


def end(process):
    process.stdin.close()
    assert process.wait(30) == 0
    process.stdout.close()


@pytest.fixture(scope="module")
def online(server, tmp_path_factory):
    process, ask = client(tmp_path_factory.mktemp("home"), HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}")
    yield ask
    end(process)


@pytest.fixture(scope="module")
def unreachable(tmp_path_factory):
    """A client of a hub that is not there."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as closed:
        port = closed.server_port
    process, ask = client(tmp_path_factory.mktemp("home"), HF_ENDPOINT=f"http://127.0.0.1:{port}")
    yield ask
    end(process)


@pytest.fixture
def asked(server):
    server.asked.clear()
    return server.asked


def fetched(asked):
    return {path.rsplit("/", 1)[-1] for method, path, _ in asked if method == "GET" and "/resolve/" in path}


def test_a_model_by_name(online, unreachable, asked, models, tmp_path):
    answer = online("org/model", cache_dir=str(tmp_path))
    assert answer["weights"] == models[1]
    assert answer["folder"] == str(tmp_path / "models--org--model" / "snapshots" / COMMIT)
    assert fetched(asked) == {"config.json", "model.safetensors"}  # nothing that is not needed
    assert {token for _, _, token in asked} == {None}
    asked.clear()
    assert online("org/model", cache_dir=str(tmp_path))["weights"] == models[1]
    assert fetched(asked) == set()  # from the cache
    asked.clear()
    for ask, options in ((online, {"local_files_only": True}), (unreachable, {})):
        assert ask("org/model", cache_dir=str(tmp_path), **options)["weights"] == models[1]
    assert asked == []


def test_a_revision(online, models, tmp_path):
    for revision in ("v1", OLDER):
        answer = online("org/model", cache_dir=str(tmp_path), revision=revision)
        assert answer["weights"] == models[2] and answer["folder"].endswith(OLDER)
    assert online("org/model", cache_dir=str(tmp_path))["weights"] == models[1]
    error = online("org/model", cache_dir=str(tmp_path), revision="v9")["error"]
    assert error.startswith("FileNotFoundError: 'org/model' is no folder here, and the hub did not give it: 404")
    assert "Revision Not Found" in error


def test_a_token(online, asked, models, tmp_path):
    error = online("org/private", cache_dir=str(tmp_path))["error"]
    assert error.startswith("FileNotFoundError: 'org/private' is no folder here, and the hub did not give it: 401")
    asked.clear()
    assert online("org/private", cache_dir=str(tmp_path), token=SECRET)["weights"] == models[1]
    assert {token for _, _, token in asked} == {f"Bearer {SECRET}"}
    assert SECRET not in error


@pytest.mark.parametrize("form", ["shards", "pickle"])
def test_shards_and_pickles(online, asked, models, tmp_path, form):
    assert online(f"org/{form}", cache_dir=str(tmp_path))["weights"] == models[1]
    others = {"pytorch_model.bin"} if form == "shards" else set()
    assert fetched(asked) == models[0][f"org/{form}"][COMMIT].keys() - others
    asked.clear()
    assert online(f"org/{form}", cache_dir=str(tmp_path), local_files_only=True)["weights"] == models[1]
    assert asked == []


def test_no_such_model(online, tmp_path):
    error = online("org/nobody", cache_dir=str(tmp_path))["error"]
    assert error.startswith("FileNotFoundError: 'org/nobody' is no folder here, and the hub did not give it: 404")
    assert "Repository Not Found" in error and "\n" not in error
    error = online("org/tensorflow", cache_dir=str(tmp_path))["error"]
    assert re.match(r"FileNotFoundError: .*holds no weights, expected model.safetensors or pytorch_model.bin", error)
    error = online("not/a/name", cache_dir=str(tmp_path))["error"]
    assert error == "FileNotFoundError: not/a/name does not exist, expected a folder with a checkpoint"


def test_no_hub(unreachable, tmp_path):
    answer = unreachable("org/model", cache_dir=str(tmp_path))
    assert answer["error"].startswith("FileNotFoundError: 'org/model' is no folder here, and the hub did not give it: ")
    assert "check your internet connection" in answer["error"] and answer["seconds"] < 5
    answer = unreachable("org/model", cache_dir=str(tmp_path), local_files_only=True)
    assert answer["error"].startswith("FileNotFoundError: ") and answer["seconds"] < 1


def test_no_huggingface_hub(tmp_path):
    process, ask = client(tmp_path, WITHOUT="yes")
    error = ask("org/model")["error"]
    assert error.startswith("ModuleNotFoundError: 'org/model' is no folder here; ") and "huggingface_hub" in error
    BertModel(BertConfig(**SIZES)).save_pretrained(tmp_path / "folder")
    assert "weights" in ask(str(tmp_path / "folder"))
    end(process)
