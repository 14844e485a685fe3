"""The embedded engine's own process: llama.cpp's OpenAI server, from the wheel `xllamacpp`.

    python -m veridical.middleware.backends.llamacpp_child --model FILE.gguf --port N

It serves on the loopback interface until SIGTERM or the end of its standard input; whoever
starts it by hand must keep that open. Its log is standard error.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from typing import Any

#: Tokens that each slot can hold: enough for a draft with its checks, 90 MB of a 135M model's cache.
DEFAULT_CONTEXT = 4096
DEFAULT_SLOTS = 4

_HOST_PROMPT_CACHE_MIB = 256  # llama.cpp would take up to 8 GiB for prompts whose slot is gone
_SPARE_HTTP_THREADS = 60  # a waiting request and an idle kept-alive connection hold a thread each


def main() -> None:
    """Serve until told to stop."""
    options = _options()
    threading.Thread(target=_terminate_at_eof, daemon=True).start()
    server = _serve(options)
    stopping = threading.Event()
    # Set only now: while the model loads, SIGTERM shall end the process at once, as by default.
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, lambda *_: stopping.set())
    print(f"llamacpp_child: serving at {server.listening_address}", file=sys.stderr, flush=True)  # noqa: T201
    stopping.wait()
    del server  # ends its threads in order


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="llama.cpp's OpenAI server on the loopback interface.")
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--alias", default="local", help="the model's name in requests and replies")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=DEFAULT_SLOTS, help="requests decoded at a time")
    parser.add_argument("--context", type=int, default=DEFAULT_CONTEXT, help="tokens per slot")
    parser.add_argument("--threads", type=int, default=-1, help="-1: as llama.cpp sees fit")
    return parser.parse_args()


def _serve(options: argparse.Namespace) -> Any:
    """Load the model and serve it; returns when the server is up."""
    import xllamacpp  # the extra `local`

    return xllamacpp.Server(_configured(xllamacpp.CommonParams(), options))


def _configured(params: Any, options: argparse.Namespace) -> Any:
    params.model.path = options.model
    params.model_alias = {options.alias}  # otherwise replies show the file's path
    params.hostnames, params.port = ["127.0.0.1"], options.port
    params.n_parallel = options.slots
    # llama.cpp divides n_ctx among the slots, so it is multiplied here. The other way, one cache
    # that all slots share (kv_unified), lets a few long requests fill it, and then every running
    # request fails; it also makes each slot's attention run over the others' tokens.
    params.n_ctx, params.kv_unified = options.context * options.slots, False
    params.cont_batching = params.cache_prompt = params.use_jinja = True
    params.cache_ram_mib = _HOST_PROMPT_CACHE_MIB
    params.n_threads_http = options.slots + _SPARE_HTTP_THREADS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.ui = params.endpoint_slots = False  # /slots would show other clients' prompts
    params.cors_origins = ""  # no web page has business with this port
    params.verbosity = 1  # errors and warnings
    return params


def _terminate_at_eof() -> None:
    """Standard input is a pipe from the guard: its end means that nobody looks after us."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
