"""Flows of deployments against a server of Prefect's: what is a task, what is an artifact, and that no key is anywhere.

All of them run in one process, as a worker of Prefect's would run each; the model server repeats the key that it is
asked with in all that it says.
"""

import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

KEY = "sk-4711-nobody-may-see-this-0815"
PASSWORD = "sesame-0815"

FLOWS = """
import json, sys
from penstock.flows.environment import api_of_a_run, prepare_environment
from penstock.step import Silent
home = prepare_environment()
from prefect.client.orchestration import get_client
from penstock.flows import deployed
with api_of_a_run(home, Silent()):
    for verb, given in json.loads(sys.argv[1]):
        state = getattr(deployed, verb)(**given, retries=0, return_state=True)
        print(verb, state.name, state.message, flush=True)
    with get_client(sync_client=True) as client:
        flows = {f.id: f for f in client.read_flow_runs()}
        tasks = sorted(client.read_task_runs(), key=lambda t: t.start_time)
        artifacts = client.read_artifacts()
    order = sorted(flows.values(), key=lambda f: f.start_time)
    told = [
        {
            "tasks": [[t.name, t.state_name] for t in tasks if t.flow_run_id == f.id],
            "artifacts": {a.key: a.data for a in artifacts if a.flow_run_id == f.id},
        }
        for f in order
    ]
    print("READ" + json.dumps(told))
"""


class Vectors(BaseHTTPRequestHandler):
    """Vectors of texts; whoever asks below ``/no`` is refused."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers["Authorization"]
        self.server.keys.append(key)
        if self.path.startswith("/no"):
            self.reply(401, {"error": f"not with {key}"})
            return
        rows = []
        for number, text in enumerate(body["input"]):
            draw = random.Random(text)
            rows.append({"index": number, "embedding": [draw.gauss(0, 1) for _ in range(8)]})
        self.reply(200, {"data": rows, "model": key})

    def reply(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status, KEY)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Nothing."""


@pytest.fixture(scope="module")
def vectors():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Vectors)
    server.keys, server.daemon_threads = [], True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def done(finished, home, vectors, tmp_path_factory):
    """(what each flow left in Prefect, what the process printed, the folder of all that it made)."""
    base, _, _ = finished
    folder = tmp_path_factory.mktemp("made")
    rows = [{"question": f"What is {n} + {n + 1}?", "answer": f"{2 * n + 1}"} for n in range(3, 9)]
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    url = f"http://127.0.0.1:{vectors.server_address[1]}"
    few = ["voyage.count=6", "voyage.sample=8", "voyage.batch=4"]
    settings = {"procedural": {"families": ["gcd", "lcm"]}}

    def embed(path):
        return f"embed.model={{url: '{url}{path}', model: v, api_key_env: PENSTOCK_TEST_KEY}}"

    def made(name, path):
        store = str(folder / "answers.sqlite")
        return {"out": str(folder / name), "settings": settings, "overrides": [*few, embed(path)], "store": store}

    flows = [
        ("generate", made("problems", "/v1")),
        ("generate", made("refused", "/no")),
        ("transform", {"given": [str(folder / "asked.jsonl")], "out": str(folder / "groups"), "workers": 0}),
        ("push", {"folder": str(base / "run"), "dest": str(folder / "pushed")}),
    ]
    secrets = {
        "PENSTOCK_TEST_KEY": KEY, "HF_TOKEN": f"hf_{KEY[3:]}", "AWS_SECRET_ACCESS_KEY": f"aws-{KEY[3:]}",
        "HTTPS_PROXY": f"http://user:{PASSWORD}@127.0.0.1:9", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    code, out, err = home.run(json.dumps(flows), code=FLOWS, **secrets)
    assert code == 0, err
    told, _, found = out.partition("READ")
    return json.loads(found), told + err, folder


@pytest.mark.slow
@pytest.mark.server
def test_steps_of_verbs_without_a_recipe_are_tasks_with_tables(done):
    generate, refused, transform, push = done[0]
    assert generate["tasks"] == [["generate", "Completed"], ["embedder", "Completed"], ["generated", "Completed"]]
    steps = json.loads(generate["artifacts"]["steps"])
    assert [(row["step"], row["status"]) for row in steps] == [("embedder", "built"), ("generated", "built")]
    reasons = json.loads(generate["artifacts"]["drop-reasons"])
    assert sum(row["rows"] for row in reasons) == steps[1]["dropped"] > 0
    assert steps[1]["kept"] == 6
    assert generate["artifacts"]["progress"] == 100

    assert refused["tasks"][0] == ["generate", "Failed"]
    assert refused["tasks"][-1][1] == "Failed"

    assert transform["tasks"] == [[name, "Completed"] for name in ("transform", "problems", "transformed")]
    assert [row["step"] for row in json.loads(transform["artifacts"]["steps"])] == ["problems", "transformed"]

    assert push["tasks"] == [["push", "Completed"]]
    (sent,) = json.loads(push["artifacts"]["files"])
    pushed = [file for file in (done[2] / "pushed").rglob("*.parquet")]
    assert sent == {"what": "send", "files": len(pushed), "bytes": sum(file.stat().st_size for file in pushed)}
    assert set(push["artifacts"]) == {"files"}


@pytest.mark.slow
@pytest.mark.server
def test_no_key_is_in_prefect_s_database_artifacts_logs_or_in_what_was_made(done, home, vectors):
    found, said, folder = done
    assert set(vectors.keys) == {f"Bearer {KEY}"}
    assert "generate Failed" in said
    assert "check the API key" in said
    written = {str(path): path.read_bytes() for at in (home.folder, folder) for path in at.rglob("*") if path.is_file()}
    database = b"".join(data for name, data in written.items() if Path(name).name.startswith("prefect.db"))
    assert b"check the API key" in database  # states and logs are there
    assert b"generated" in database
    for name, data in {**written, "artifacts": json.dumps(found).encode(), "terminal": said.encode()}.items():
        assert KEY[3:].encode() not in data, name
        assert PASSWORD.encode() not in data, name
