"""The commented configuration that `veridical init` writes: made from the settings, so it cannot lag."""

from __future__ import annotations

from typing import Any

import orjson

from veridical.middleware.backend_config import (
    HttpBackendSettings,
    LangChainBackendSettings,
    LocalBackendSettings,
    VllmBackendSettings,
)
from veridical.middleware.balancing.settings import ModelSettings
from veridical.middleware.cache.settings import CacheSettings
from veridical.middleware.config import (
    AuthSettings,
    BudgetSettings,
    ResponsesSettings,
    ServerSettings,
    Settings,
    StateSettings,
)
from veridical.middleware.observing.settings import ObservabilitySettings
from veridical.middleware.retriever_config import (
    HybridSettings,
    IndexSettings,
    LangChainRetrieverSettings,
    RerankSettings,
    WikipediaSettings,
)
from veridical.middleware.section import Section

_HEAD = """\
# Veridical's configuration. Every line is optional: what is commented out shows the default.
# An environment variable VERIDICAL_SECTION_KEY (VERIDICAL_SERVER_PORT) overrides a key of a section,
# and a flag of `veridical serve` overrides both. Secrets are named, never written here.
"""

_EXAMPLES: tuple[tuple[str, type[Section], dict[str, Any]], ...] = (
    ("backends.local", LocalBackendSettings, {"type": "local"}),
    (
        "backends.openai",
        HttpBackendSettings,
        {"type": "http", "base_url": "https://api.openai.com/v1", "api_key_env": "OPENAI_API_KEY"},
    ),
    ("backends.qwen", VllmBackendSettings, {"type": "vllm", "model": "Qwen/Qwen2.5-7B-Instruct"}),
    (
        "backends.claude",
        LangChainBackendSettings,
        {
            "type": "langchain",
            "model_class": "langchain_anthropic:ChatAnthropic",
            "kwargs": {"api_key_env": "ANTHROPIC_API_KEY"},
            "models": ["claude-sonnet-4-5"],
        },
    ),
    (
        "models.assistant",
        ModelSettings,
        {"targets": ["qwen/qwen"], "fallback": ["openai/gpt-4o-mini"]},
    ),
    ("retrievers.pages", IndexSettings, {"type": "index", "path": "my-index"}),
    ("retrievers.wikipedia", WikipediaSettings, {"type": "wikipedia"}),
    ("retrievers.both", HybridSettings, {"type": "hybrid", "sources": ["pages", "wikipedia"]}),
    (
        "retrievers.best",
        RerankSettings,
        {"type": "rerank", "source": "both", "model": "cross-encoder/ms-marco-MiniLM-L6-v2"},
    ),
    (
        "retrievers.qdrant",
        LangChainRetrieverSettings,
        {
            "type": "langchain",
            "retriever_class": "langchain_qdrant:QdrantVectorStore.from_existing_collection",
            "kwargs": {
                "collection_name": "pages",
                "url": "https://qdrant.example:6333",
                "api_key_env": "QDRANT_KEY",
                "embedding": {
                    "import": "veridical.retrievers.dense:SentenceEmbeddings",
                    "kwargs": {"model": "sentence-transformers/all-MiniLM-L6-v2"},
                },
            },
        },
    ),
)


_SECTIONS: dict[str, type[Section]] = {
    "server": ServerSettings,
    "budget": BudgetSettings,
    "auth": AuthSettings,
    "state": StateSettings,
    "responses": ResponsesSettings,
    "observability": ObservabilitySettings,
    "cache": CacheSettings,
}


_ROLES = [
    f'# {role} = "MODEL"' for role in ("generator", "verifier", "examiner", "critic", "judge", "agent1")
]


def config_template() -> str:
    """A veridical.toml with every setting, its meaning and its default; only the embedded engine is on."""
    parts = [_HEAD, *_fields(Settings, {}, on=False)]
    for title, kind in _SECTIONS.items():
        parts += ["", f"[{title}]", *_fields(kind, {}, on=False)]
    parts += ["", "[roles]", "# Models for roles; others use the request's own.", *_ROLES]
    parts += ["", "[pipelines]", "# Strategy expressions by name, to ask for as MODEL+NAME."]
    parts += ['# careful = "cove|self_consistency(n=3)"']
    for name, section, given in _EXAMPLES:
        on = name == "backends.local"
        parts += ["", f"[{name}]" if on else f"# [{name}]", *_fields(section, given, on=on)]
    return "\n".join(parts) + "\n"


def _fields(section: type[Section], given: dict[str, Any], *, on: bool) -> list[str]:
    """A section's scalar keys, one comment and one line each; first those of `given`, with its values."""
    lines: list[str] = []
    for key, field in sorted(section.model_fields.items(), key=lambda item: item[0] not in given):
        if (
            key in {*Settings.model_fields} - {"default_strategy", "advertise", "passthrough"}
            and section is Settings
        ):
            continue
        default = field.get_default(call_default_factory=True)
        value = given.get(key, default)
        shown = f"{key} = {_toml(value)}" if value is not None else f"{key} = …"
        live = on and key in given
        lines += [f"# {field.description}", shown if live else f"# {shown}"]
    return lines


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }" if value else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return orjson.dumps(value).decode()
