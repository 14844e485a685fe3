"""litellm, instructor, the official SDK for Node, and curl."""

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path

import instructor
import litellm
import openai
import pydantic
import pytest

from clients_target import CHAT, KEY, QUESTION

NODE_MODULES = Path(os.environ.get("VERIDICAL_CLIENTS_NODE", "node_modules"))


class Capital(pydantic.BaseModel):
    city: str


@pytest.fixture
def lite(url, model):
    return {"model": f"openai/{model}", "api_base": url, "api_key": KEY, "num_retries": 0, "max_tokens": 100}


def test_litellm_chat(lite):
    answer = litellm.completion(messages=CHAT, **lite)
    assert "Canberra" in answer.choices[0].message.content
    assert answer.usage.total_tokens > 0


def test_litellm_stream(lite):
    chunks = list(litellm.completion(messages=CHAT, stream=True, **lite))
    assert "Canberra" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_litellm_async(lite):
    answer = asyncio.run(litellm.acompletion(messages=CHAT, **lite))
    assert answer.choices[0].message.content


def test_litellm_tools(lite):
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": schema}}
    asked = [{"role": "user", "content": "What is the weather in Canberra?"}]
    answer = litellm.completion(messages=asked, tools=[tool], tool_choice="required", **lite)
    assert json.loads(answer.choices[0].message.tool_calls[0].function.arguments)["city"]


def test_litellm_responses(lite):
    asked = {name: value for name, value in lite.items() if name != "max_tokens"}
    answer = litellm.responses(input=QUESTION, max_output_tokens=100, **asked)
    assert answer.output[0].content[0].text


def test_litellm_responses_stream(lite):
    asked = {name: value for name, value in lite.items() if name != "max_tokens"}
    events = list(litellm.responses(input=QUESTION, max_output_tokens=100, stream=True, **asked))
    assert events[-1].type == "response.completed"


def test_litellm_embeddings(lite, model):
    plain = {**lite, "model": f"openai/{model.partition('+')[0]}"}
    del plain["max_tokens"]
    assert litellm.embedding(input=["x"], encoding_format="float", **plain).data


MODES = ["TOOLS", "JSON", "JSON_SCHEMA", "MD_JSON", "RESPONSES_TOOLS"]


@pytest.mark.parametrize("mode", MODES)
def test_instructor(url, model, mode):
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=120) as client:
        patched = instructor.from_openai(client, mode=instructor.Mode[mode])
        made = patched.create(model=model, messages=CHAT, response_model=Capital, max_retries=0)
    assert made.city


def run(*command, **environment):
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


NODE_CHECKS = ["chat", "stream", "streamHelper", "tools", "responses", "responsesStream", "embeddings"]


@pytest.mark.parametrize("check", NODE_CHECKS)
def test_node(url, model, check):
    if not shutil.which("node") or not NODE_MODULES.is_dir():
        pytest.skip("NOT RUN: there is no node, or its openai package is not installed")
    script = Path(__file__).parent / "node_client.cjs"
    run("node", str(script), check, url, model, NODE_PATH=str(NODE_MODULES))


def curl(*arguments):
    if not shutil.which("curl"):
        pytest.skip("NOT RUN: there is no curl")
    head = ("-H", "Content-Type: application/json", "-H", f"Authorization: Bearer {KEY}")
    return run("curl", "--silent", "--show-error", "--fail", "--noproxy", "*", *head, *arguments)


def test_curl_chat(url, model):
    body = json.dumps({"model": model, "messages": CHAT, "max_tokens": 100})
    assert json.loads(curl(f"{url}/chat/completions", "-d", body))["choices"][0]["message"]["content"]


def test_curl_stream(url, model):
    body = json.dumps({"model": model, "messages": CHAT, "max_tokens": 100, "stream": True})
    assert curl("-N", f"{url}/chat/completions", "-d", body).rstrip().endswith("data: [DONE]")


def test_curl_responses(url, model):
    body = json.dumps({"model": model, "input": QUESTION, "max_output_tokens": 100})
    assert json.loads(curl(f"{url}/responses", "-d", body))["status"] in ("completed", "incomplete")
