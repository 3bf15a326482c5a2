"""An exported folder goes to a hub on the loopback: what is sent, to whom it shows, and what is asked before."""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from fledge.cli import run as command
from fledge.commands import Export
from fledge.export import out
from test_hub import REVISION, FakeHub, Handler, point_at
from tiny_runs import tiny_run

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub


class Taking(Handler):
    """The part of the hub's protocol that takes files."""

    server: TakingHub  # pyright: ignore[reportIncompatibleVariableOverride]

    def say(self, status: int, **record: Any) -> None:
        self.reply(status, json.dumps(record).encode(), body=True, headers={"Content-Type": "application/json"})

    def do_GET(self) -> None:
        repo = urlsplit(self.path).path.removeprefix("/api/models/").partition("/revision")[0]
        if repo not in self.server.private:
            return self.say(404, error="Repository not found")
        return self.say(200, _id="1", id=repo, sha=REVISION, siblings=[], private=self.server.private[repo], tags=[])

    def do_PUT(self) -> None:
        self.server.blobs[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.say(200)

    def do_POST(self) -> None:
        raw, hub, path = self.rfile.read(int(self.headers["Content-Length"])), self.server, self.path
        if self.headers.get("Authorization") != "Bearer hf_right":
            return self.say(401, error="Invalid credentials")
        if path == "/api/repos/create":
            asked = json.loads(raw)
            name = f"{asked['organization']}/{asked['name']}"
            if name in hub.private:
                return self.say(409, url=f"{hub.address}/{name}")
            hub.private[name] = asked["visibility"] == "private"
            return self.say(200, url=f"{hub.address}/{name}")
        if path == "/api/validate-yaml":
            return self.say(200)
        if path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(raw)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
            return self.say(
                200, files=[{"path": name, "uploadMode": modes[name], "shouldIgnore": False} for name in names]
            )
        if path.endswith("/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{hub.address}/blob/{one['oid']}"}}}
                for one in json.loads(raw)["objects"]
            ]
            return self.say(200, transfer="basic", objects=objects)
        assert "/commit/main" in path
        for line in map(json.loads, raw.splitlines()):
            about = line["value"]
            if line["key"] == "file":
                hub.taken[about["path"]] = base64.b64decode(about["content"])
            elif line["key"] == "lfsFile":
                hub.taken[about["path"]] = hub.blobs[f"/blob/{about['oid']}"]
        return self.say(200, commitUrl=f"{hub.address}/someone/pip/commit/1", commitOid="1")


class TakingHub(FakeHub):
    """What it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = Taking
        self.private: dict[str, bool] = {}
        self.blobs: dict[str, bytes] = {}
        self.taken: dict[str, bytes] = {}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[TakingHub]:
    server = TakingHub()
    point_at(server.address, monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("export")
    tiny_run(home / "run")
    out.main(Export(run=str(home / "run"), out=str(home / "hf"), threads=1))
    (home / "hf" / "notes.txt").write_text("mine alone")
    return home / "hf"


def test_what_fledge_wrote_arrives_in_a_private_repository(
    hub: TakingHub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["upload", str(folder), "someone/pip", "--yes"]) == 0
    assert hub.private == {"someone/pip": True}
    assert hub.taken == {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "notes.txt"}
    said = capsys.readouterr().out
    assert f"to {hub.address}/someone/pip, private:" in said
    assert "model.safetensors (" in said
    assert "not sent, since fledge did not write it: notes.txt" in said


def test_nothing_is_sent_unless_somebody_agrees(
    hub: TakingHub, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert command(["upload", str(folder), "someone/pip"]) == 2
    assert "nobody is there to be asked whether to send this; add --yes" in capsys.readouterr().err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    for answer in ("", "n"):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        assert command(["upload", str(folder), "someone/pip"]) == 0
    assert not hub.taken
    assert not hub.private
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert command(["upload", str(folder), "someone/pip", "--public"]) == 0
    assert hub.private == {"someone/pip": False}
    assert hub.taken


@pytest.mark.parametrize(
    ("is_private", "flags", "told"),
    [(False, [], "public. Nothing was sent; add"), (True, ["--public"], "private. Nothing was sent; leave out")],
)
def test_a_repository_takes_nothing_that_was_to_be_seen_by_others_than_see_it(
    hub: TakingHub, folder: Path, capsys: pytest.CaptureFixture[str], is_private: bool, flags: list[str], told: str
) -> None:
    hub.private["someone/pip"] = is_private
    assert command(["upload", str(folder), "someone/pip", "--yes", *flags]) == 2
    assert f"someone/pip: is there already, and {told} --public" in capsys.readouterr().err
    assert not hub.taken


def test_a_wrong_token_a_damaged_folder_and_a_foreign_one_are_told(
    hub: TakingHub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert command(["upload", str(folder), "someone/pip", "--yes"]) == 2
    assert "401" in (told := capsys.readouterr().err)
    assert "HF_TOKEN, with a token that may write" in told
    assert command(["upload", str(folder), "pip", "--yes"]) == 2
    assert "repo 'pip' is not of the form someone/my-model" in capsys.readouterr().err
    assert command(["upload", str(tmp_path), "someone/pip", "--yes"]) == 2
    assert "no fledge.json there, so fledge did not write it" in capsys.readouterr().err
    (tmp_path / "fledge.json").write_text((folder / "fledge.json").read_text())
    assert command(["upload", str(tmp_path), "someone/pip", "--yes"]) == 2
    assert "config.json: missing, fledge.json has another SHA-256" in capsys.readouterr().err
    assert not hub.taken
