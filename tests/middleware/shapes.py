"""Request shapes of chat completions that applications send, and what a server answers to each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from veridical.tests.answers import Answer, Exchange, Pieces, Say, Whole, sse

ASK = [{"role": "user", "content": "What is the capital of Australia?"}]
SAID = "The capital of Australia is Canberra."
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}, "strict": True}}
ARGUMENTS = ('{"at": "map"}', '{"at":"ciel é"}')
CALLS = [
    {"id": f"c{i}", "type": "function", "function": {"name": "look", "arguments": each}}
    for i, each in enumerate(ARGUMENTS)
]
CALL_DELTAS = [
    {"role": "assistant", "content": None},
    {"tool_calls": [{"index": 0, **CALLS[0], "function": {"name": "look", "arguments": '{"at"'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": ': "map"}'}}]},
    {"tool_calls": [{"index": 1, **CALLS[1]}]},
]
CALLING = Say(None, message={"tool_calls": CALLS, "refusal": None}, deltas=CALL_DELTAS, finish="tool_calls")
ONE_CALL = Say(None, message={"tool_calls": CALLS[:1]}, deltas=CALL_DELTAS[:3], finish="tool_calls")
LOGPROBS = {
    "content": [{"token": "Ž", "logprob": -0.125, "bytes": [197, 189], "top_logprobs": []}],
    "refusal": None,
}
SCHEMA = {"name": "a", "strict": True, "schema": {"type": "object", "properties": {"x": {"type": "string"}}}}
PNG = "data:image/png;base64,iVBORw0KGgo="
ODD = 'Žluťoučký kůň 🐎 馬 \u2028 \u0000 \\ " e\u0301 \U0010ffff'
LONG = "A fact about koalas. " * 20_000


@dataclass(frozen=True)
class Shape:
    """`fields` over a small body, the upstream's answer, and the parameter by which a strategy refuses
    it, if it does."""

    name: str
    fields: Mapping[str, Any]
    said: Answer | Callable[[Exchange], Answer] = field(default_factory=lambda: Say(SAID))
    refused: str | None = None

    @property
    def body(self) -> dict[str, Any]:
        return {"model": "m1", "messages": ASK, **self.fields}


def talk(*messages: Mapping[str, Any]) -> dict[str, Any]:
    return {"messages": [*messages, *ASK]}


def parts(*more: Mapping[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "And this?"}, *more]}]}


def choices(count: int) -> Callable[[Exchange], Answer]:
    """An answer with several choices; one choice where one is asked for."""

    def answer(exchange: Exchange) -> Answer:
        if exchange.body.get("n", 1) == 1:
            return Say(SAID)
        head = {"id": "x", "object": "chat.completion", "created": 1, "model": "m1"}
        if exchange.body.get("stream"):
            deltas = [
                sse({**head, "choices": [{"index": i, "delta": {"content": str(i)}, "finish_reason": None}]})
                for i in (*range(count), *range(count))
            ]
            ends = [
                sse({**head, "choices": [{"index": i, "delta": {}, "finish_reason": "stop"}]})
                for i in range(count)
            ]
            return Pieces([*deltas, *ends, b"data: [DONE]\n\n"])
        found = ",".join(
            f'{{"index":{i},"message":{{"role":"assistant","content":"{i}"}},"finish_reason":"stop"}}'
            for i in range(count)
        )
        return Whole(f'{{"id":"x", "choices":[{found}]}}'.encode())

    return answer


def split(exchange: Exchange) -> Answer:
    """Text outside ASCII; streamed, cut in the middle of its characters, with odd framing."""
    if not exchange.body.get("stream"):
        return Say(ODD)
    chunks = [
        sse({"choices": [{"index": 0, "delta": {"content": each}, "finish_reason": None}]}) for each in ODD
    ]
    end = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    wire = b": ping\n\n" + b"".join(chunks) + end + b"data: [DONE]\n\n"
    return Pieces([wire[i : i + 97] for i in range(0, len(wire), 97)])


SHAPES = [
    Shape("plain", {}),
    Shape("empty answer", {}, Say("")),
    Shape("null answer", {}, Say(None)),
    Shape("system", talk({"role": "system", "content": "Be brief."})),
    Shape("developer", talk({"role": "developer", "content": "Be brief.", "name": "dev"})),
    Shape(
        "turns",
        talk({"role": "user", "content": "Hi", "name": "ann"}, {"role": "assistant", "content": "Hi!"}),
    ),
    Shape("empty content", talk({"role": "user", "content": ""}, {"role": "assistant", "content": None})),
    Shape("empty parts", talk({"role": "user", "content": []}, {"role": "assistant", "content": []})),
    Shape("prefill", {"messages": [*ASK, {"role": "assistant", "content": "The capital is"}]}),
    Shape("prefix", {"messages": [*ASK, {"role": "assistant", "content": "The", "prefix": True}]}),
    Shape("refusal in history", talk({"role": "assistant", "content": None, "refusal": "No."})),
    Shape("text parts", parts({"type": "text", "text": "More."})),
    Shape(
        "part with unknown fields",
        parts({"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}),
    ),
    Shape("image", parts({"type": "image_url", "image_url": {"url": PNG, "detail": "low"}})),
    Shape("images", parts(*[{"type": "image_url", "image_url": {"url": PNG}}] * 3)),
    Shape("audio part", parts({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}})),
    Shape(
        "file part", parts({"type": "file", "file": {"filename": "a.pdf", "file_data": "data:;base64,AA"}})
    ),
    Shape("unknown part", parts({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AA"}})),
    Shape("unknown message fields", talk({"role": "user", "content": "x", "novel": {"deep": [1, None]}})),
    Shape("unknown role", talk({"role": "ipython", "content": "x"})),
    Shape("non-ascii", {"messages": [{"role": "user", "content": ODD}]}, split),
    Shape("non-ascii in and out", talk({"role": "system", "content": ODD}), Say(ODD, cut=1)),
    Shape("very long message", talk({"role": "user", "content": LONG})),
    Shape("many messages", talk(*[{"role": "user", "content": str(i)} for i in range(500)])),
    Shape("very long answer", {}, Say("Koalas sleep. " * 5_000, cut=500)),
    Shape("tools", {"tools": [TOOL], "tool_choice": "auto"}),
    Shape("a tool call", {"tools": [TOOL]}, ONE_CALL),
    Shape("parallel calls", {"tools": [TOOL, TOOL], "parallel_tool_calls": True}, CALLING),
    Shape("no parallel calls", {"tools": [TOOL], "parallel_tool_calls": False}, ONE_CALL),
    Shape(
        "forced tool",
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "look"}}},
        ONE_CALL,
    ),
    Shape("required tool", {"tools": [TOOL], "tool_choice": "required"}, CALLING),
    Shape("no tool", {"tools": [TOOL], "tool_choice": "none"}),
    Shape("custom tool", {"tools": [{"type": "custom", "custom": {"name": "sh"}}]}),
    Shape(
        "allowed tools",
        {
            "tools": [TOOL],
            "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TOOL]}},
        },
    ),
    Shape(
        "tool results",
        {
            "tools": [TOOL],
            "messages": [
                *ASK,
                {"role": "assistant", "content": None, "tool_calls": CALLS},
                {"role": "tool", "tool_call_id": "c0", "content": "a map"},
                {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": ODD}]},
            ],
        },
    ),
    Shape(
        "tool results and a question",
        talk(
            {"role": "assistant", "content": "x", "tool_calls": CALLS[:1]},
            {"role": "tool", "tool_call_id": "c0", "content": ""},
        ),
    ),
    Shape(
        "functions",
        {"functions": [TOOL["function"]], "function_call": "auto"},
        Say(None, message={"function_call": CALLS[0]["function"]}, finish="function_call"),
    ),
    Shape(
        "function results",
        talk(
            {"role": "assistant", "content": None, "function_call": CALLS[0]["function"]},
            {"role": "function", "name": "look", "content": "a map"},
        ),
    ),
    Shape(
        "json_schema",
        {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
        Say('{"x": "Canberra"}'),
    ),
    Shape("json_object", {"response_format": {"type": "json_object"}}, Say('{ "x" : 1.50 }')),
    Shape("text format", {"response_format": {"type": "text"}}),
    Shape("guided decoding", {"guided_json": SCHEMA["schema"], "structured_outputs": {"choice": ["a", "b"]}}),
    Shape("n", {"n": 3}, choices(3)),
    Shape("n of one", {"n": 1}, choices(1)),
    Shape("too many", {"n": 17}, choices(17), refused="n"),
    Shape("logprobs", {"logprobs": True, "top_logprobs": 2}, Say(SAID, logprobs=LOGPROBS)),
    Shape("logit_bias", {"logit_bias": {"50256": -100, "1": 0.5}}),
    Shape("stop", {"stop": "##"}),
    Shape("stops", {"stop": ["##", "\n\n", "ž"]}),
    Shape("seed", {"seed": 0}),
    Shape("large seed", {"seed": 2**63 - 1}),
    Shape("negative seed", {"seed": -1}),
    Shape("sampling", {"temperature": 0.70, "top_p": 1, "presence_penalty": -2, "frequency_penalty": 1e-3}),
    Shape("more sampling", {"top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1, "min_tokens": 3}),
    Shape("max_tokens", {"max_tokens": 5}, Say("The capital of", finish="length")),
    Shape("max_completion_tokens", {"max_completion_tokens": 5}, Say("The", finish="length")),
    Shape("content filter", {}, Say("The", finish="content_filter")),
    Shape(
        "refusal",
        {},
        Say(
            None,
            message={"refusal": "I will not."},
            deltas=[{"role": "assistant", "refusal": "I will "}, {"refusal": "not."}],
        ),
    ),
    Shape(
        "reasoning",
        {"reasoning_effort": "high", "verbosity": "low"},
        Say(SAID, message={"reasoning_content": "Hm."}),
    ),
    Shape(
        "reasoning object",
        {"reasoning": {"effort": "low", "exclude": False}, "thinking": {"type": "enabled"}},
    ),
    Shape("reasoning in history", talk({"role": "assistant", "content": "x", "reasoning_content": "Hm."})),
    Shape(
        "template arguments",
        {"chat_template_kwargs": {"enable_thinking": False}, "add_generation_prompt": True},
    ),
    Shape(
        "bookkeeping",
        {"user": "u1", "metadata": {"a": "b"}, "store": True, "service_tier": "flex"},
        Say(SAID, extra={"service_tier": "flex"}),
    ),
    Shape(
        "cache and safety",
        {"prompt_cache_key": "k", "prompt_cache_retention": "24h", "safety_identifier": "s"},
    ),
    Shape("prediction", {"prediction": {"type": "content", "content": "The capital"}}),
    Shape(
        "web search",
        {"web_search_options": {"search_context_size": "low"}},
        Say(
            SAID,
            message={
                "annotations": [
                    {
                        "type": "url_citation",
                        "url_citation": {"url": "u", "title": "t", "start_index": 0, "end_index": 3},
                    }
                ]
            },
        ),
    ),
    Shape("usage in the stream", {"stream_options": {"include_usage": True}}),
    Shape("padding in the stream", {"stream_options": {"include_obfuscation": False}}),
    Shape(
        "nulls",
        dict.fromkeys(["temperature", "stop", "tools", "tool_choice", "response_format", "n", "seed"]),
    ),
    Shape("unknown fields", {"novel": {"deep": [1, None, {"é": 1.5}]}, "x-y": "", "": 0}),
    Shape(
        "unknown answer fields",
        {},
        Say(SAID, message={"novel": {"a": 1.5}}, extra={"system_fingerprint": "fp", "x_groq": {"id": "r"}}),
    ),
    Shape(
        "spoken answer",
        {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}},
        Say(None, message={"audio": {"id": "a", "data": "AA==", "transcript": SAID}}),
        refused="modalities",
    ),
    Shape("text modality", {"modalities": ["text"]}),
]
