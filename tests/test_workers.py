"""Several processes that serve one port: what they share holds, none is missed, all end together."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from veridical.tests.answers import Held, Say
from veridical.tests.processes import serving
from veridical.tests.proxy import wait_until
from veridical.tests.servers import listens

pytestmark = pytest.mark.timeout(600)
COUNT = 2
#: Requests a minute.
LIMIT = 12


@pytest.fixture
def workers(upstream, tmp_path):
    """Two workers before the upstream, and the headers of a key: (replica, key)."""
    environment = {
        "VERIDICAL_STATE_PATH": str(tmp_path / "state.sqlite"),
        "VERIDICAL_STATE_FLUSH_S": "0.1",
        "VERIDICAL_OBSERVABILITY_METRICS": "open",
    }
    limits = ["--requests-per-minute", str(LIMIT)]
    made = subprocess.run(
        [sys.executable, "-m", "veridical", "keys", "create", "--name", "n", *limits],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    (key,) = re.findall(r"vrd_\w+", made.stdout)
    upstream.on(draft=Say("hi"))
    arguments = ["--keys", "--workers", str(COUNT), "--base-url", upstream.url]
    with serving(tmp_path, *arguments, environment=environment) as replica:
        assert replica.proxy.request("GET", "/health").status == 200  # once a worker is there to answer
        yield replica, {"Authorization": f"Bearer {key}"}
        replica.process.terminate()
        replica.process.wait(60)


def children(pid):
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # it may go while its file is read
        return False


def test_limits_usage_and_metrics_are_of_all_workers_together(workers):
    replica, key = workers
    proxy = replica.proxy
    began = time.monotonic()
    found = [proxy.chat(headers=key).status for _ in range(40)]  # each on a connection of its own
    refilled = (time.monotonic() - began) * LIMIT / 60
    passed, refused = found.count(200), found.count(429)
    assert passed + refused == len(found)
    assert LIMIT <= passed <= LIMIT + refilled
    wait_until(lambda: counted(proxy, key) == passed, 20)
    wait_until(lambda: metrics(proxy) == {"200": passed, "429": refused}, 20)


def counted(proxy, key):
    return proxy.request("GET", "/v1/usage", headers=key).json["total"]["requests"]


def metrics(proxy):
    """Requests by status, as /metrics tells them."""
    found = proxy.request("GET", "/metrics").raw.decode()
    lines = re.findall(r"veridical_requests_total\{(.*?)\} ([\d.]+)", found)
    told = {}
    for labels, value in lines:
        if 'endpoint="/v1/chat/completions"' in labels:
            status = re.search(r'status="(\d+)"', labels)[1]
            told[status] = told.get(status, 0) + float(value)
    return told


def test_a_worker_that_crashes_is_started_again_and_nobody_is_refused(workers):
    replica, key = workers
    before = children(replica.process.pid)
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: not runs(before[0]), 20)  # what it had accepted is lost; what comes now waits
    with ThreadPoolExecutor(4) as pool:
        statuses = set(pool.map(lambda _: replica.proxy.chat(headers=key).status, range(8)))
    assert statuses == {200}
    wait_until(lambda: len(children(replica.process.pid)) == COUNT, 60)
    assert before[1] in children(replica.process.pid)
    assert "started again" in replica.log.read_text()


def test_a_running_answer_is_finished_when_the_server_is_stopped(workers, upstream):
    replica, key = workers
    release = threading.Event()
    upstream.on(draft=Held(Say("hi"), release))
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(replica.proxy.chat, headers=key)
        wait_until(lambda: upstream.chats, 20)
        replica.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not listens(replica.proxy.port), 60)
        release.set()
        assert late.result(60).status == 200
    assert replica.process.wait(60) == 0


def test_workers_end_when_their_parent_is_killed(workers):
    replica, _ = workers
    left = children(replica.process.pid)
    replica.process.kill()
    wait_until(lambda: not any(map(runs, left)), 60)


def test_a_configuration_that_cannot_be_served_ends_the_parent(upstream, tmp_path):
    (tmp_path / "veridical.toml").write_text(
        '[backends.up]\ntype = "http"\nbase_url = "http://127.0.0.1:1/v1"\n'
    )
    ended = subprocess.run(
        [sys.executable, "-m", "veridical", "serve", "--workers", "2", "--host", "0.0.0.0", "--port", "0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 1
    assert "Require keys" in ended.stderr


def test_a_kept_response_is_known_to_every_worker(workers):
    replica, key = workers
    made = replica.proxy.request("POST", "/v1/responses", {"model": "m1", "input": "one"}, headers=key)
    assert made.status == 200
    path = f"/v1/responses/{made.json['id']}"
    found = [replica.proxy.request("GET", path, headers=key) for _ in range(12)]
    assert {each.status for each in found} == {200}
    assert {each.json["id"] for each in found} == {made.json["id"]}
    assert replica.proxy.request("DELETE", path, headers=key).status == 200
    assert {replica.proxy.request("GET", path, headers=key).status for _ in range(12)} == {404}


def test_every_worker_reads_the_configuration_again_on_a_signal_to_the_parent(upstream, tmp_path):
    file = tmp_path / "veridical.toml"
    before = f'[backends.up]\nbase_url = "{upstream.url}"\nmodels = ["m1"]\n'
    file.write_text(before)
    with serving(tmp_path, "--config", str(file), "--workers", str(COUNT)) as replica:

        def models():
            listed = [replica.proxy.request("GET", "/v1/models") for _ in range(12)]
            return [{model["id"] for model in each.json["data"]} for each in listed]

        assert not any("m2" in each for each in models())
        file.write_text(before.replace('["m1"]', '["m1", "m2"]'))
        replica.process.send_signal(signal.SIGHUP)
        wait_until(lambda: all("m2" in each for each in models()), 60)
        replica.process.terminate()
        assert replica.process.wait(60) == 0


# Healthy at once; each answer says which process gave it.
ENGINE = """
import http.server, json, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        message = {"role": "assistant", "content": str(os.getpid())}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m1",
                           "choices": [choice], "data": [{"id": "m1", "object": "model"}]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = answer
    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_an_engine_runs_once_for_all_workers_and_is_started_again_for_all(tmp_path):
    script, file = tmp_path / "engine.py", tmp_path / "veridical.toml"
    script.write_text(ENGINE)
    command = f'["{sys.executable}", "{script}", "{{port}}"]'
    file.write_text(
        f'[backends.engine]\ntype = "vllm"\nmodel = "m1"\nserved_as = "m1"\ncommand = {command}\n'
    )
    with serving(tmp_path, "--config", str(file), "--workers", str(COUNT)) as replica:

        def engines():
            answers = [replica.proxy.chat() for _ in range(12)]
            return {each.json["choices"][0]["message"]["content"] for each in answers if each.status == 200}

        (engine,) = engines()
        os.kill(int(engine), signal.SIGKILL)
        wait_until(lambda: not runs(int(engine)), 20)
        wait_until(lambda: len(found := engines()) == 1 and found != {engine}, 60)
        (engine,) = engines()
        replica.process.terminate()
        assert replica.process.wait(60) == 0
        wait_until(lambda: not runs(int(engine)), 20)
