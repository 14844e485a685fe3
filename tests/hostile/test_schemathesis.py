"""The API asked for whatever its OpenAPI document allows, and for what it does not: no error of ours."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from veridical.tests.access.conftest import bearer
from veridical.tests.answers import Say, Whole
from veridical.tests.clients.servers import EMBEDDING

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(3600)]

MODELS = ["m1", "m1+direct", "m1+self_consistency(n=2)", "m1+self_refine(max_rounds=1)", "nobody's", ""]


def test_whatever_the_document_allows_is_answered(serve, upstream, tmp_path: Path, monkeypatch) -> None:
    """Bodies are tried with the models that there are: with names made up, all would end at a 404."""
    monkeypatch.setenv("CLIENT_KEY", "sk-client")
    monkeypatch.setenv("VERIDICAL_STATE_PATH", str(tmp_path / "state.sqlite"))
    upstream.on(draft=Say("Canberra."), **{"self_refine/feedback": Say('{"feedback": "no", "done": true}')})
    upstream.paths |= {
        f"/v1/{each}": Whole(json.dumps(EMBEDDING).encode()) for each in ("embeddings", "responses")
    }
    proxy = serve(auth={"client_keys_env": ["CLIENT_KEY"]})
    document = proxy.request("GET", "/openapi.json").json
    for path in ("/v1/chat/completions", "/v1/responses"):
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        fields = content["schema"]["properties"]
        fields["model"] = {"type": "string", "enum": MODELS}
        budget = fields["veridical"]["properties"]["budget"]["properties"]
        budget |= {
            name: {"type": "integer", "minimum": 100_000} for name in budget
        }  # less: a sound 503 or 504
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(document))
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(file)]
    options = ["--url", proxy.url.removesuffix("/v1"), "--checks", "not_a_server_error", "--workers", "2"]
    limits = ["--phases", "coverage,fuzzing", "--max-examples", "60", "--seed", "6", "--continue-on-failure"]
    limits += ["--suppress-health-check", "all", "--request-timeout", "60"]
    header = ["-H", "Authorization:" + bearer("sk-client")["Authorization"]]
    done = subprocess.run(
        [*command, *options, *limits, *header], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert len(upstream.log) > 20
