"""How the proxy runs vLLM: the command that it makes, and what it says where there is none."""

import sys

import pytest

from veridical.middleware.backends.local import vllm_engine
from veridical.strategies.errors import ConfigError


def test_the_vllm_command_gets_our_address_and_prefix_caching(tmp_path):
    command, args = ["python", "-m", "server", "--model", "m"], ["--dtype", "bf16"]
    spec = vllm_engine("org/model", log_file=tmp_path / "log", command=command, args=args)
    assert spec.argv(81) == [
        *("python", "-m", "server", "--model", "m", "--host", "127.0.0.1", "--port", "81"),
        *("--enable-prefix-caching", "--dtype", "bf16"),
    ]


def test_a_vllm_command_may_place_its_port_and_hold_json(tmp_path):
    command = ["serve", "--listen={port}", '{"a": 1}']
    spec = vllm_engine("org/model", log_file=tmp_path / "log", command=command)
    assert spec.argv(81) == ["serve", "--listen=81", '{"a": 1}']


def test_without_vllm_the_error_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ConfigError, match=r"veridical\[vllm\]"):
        vllm_engine("org/model", log_file=tmp_path / "log")


def test_vllm_is_found_beside_our_interpreter(tmp_path, monkeypatch):
    script = tmp_path / "vllm"
    script.touch(mode=0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    spec = vllm_engine("org/model", log_file=tmp_path / "log")
    assert spec.argv(1)[:3] == [str(script), "serve", "org/model"]
