"""A request of the Responses API: read, and as a chat. What a chat cannot keep is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from veridical.middleware.protocol import ChatBody, Controls, check_model, read_controls, read_object
from veridical.middleware.responses.items import Item, input_items, messages_of
from veridical.strategies.errors import InvalidRequest, UnsupportedParameter, shown
from veridical.strategies.expression import Stage
from veridical.strategies.types import Params

#: What an OpenAI account does behind its own API and no chat can, with the words of the refusal.
_REFUSED: Mapping[str, str] = {
    "background": "Responses are not made in the background.",
    "background_options": "Responses are not made in the background.",
    "context_management": "Nothing is left out of a conversation here.",
    "conversation": "There are no stored conversations: use 'previous_response_id'.",
    "max_tool_calls": "It limits built-in tools, and there are none.",
    "moderation": "Nothing is moderated here.",
    "prompt": "There are no stored prompts.",
    # Names of chat completions, which would contradict those of this API.
    "messages": "In the Responses API this is 'input'.",
    "max_tokens": "In the Responses API this is 'max_output_tokens'.",
    "max_completion_tokens": "In the Responses API this is 'max_output_tokens'.",
    "response_format": "In the Responses API this is 'text.format'.",
    "reasoning_effort": "In the Responses API this is 'reasoning.effort'.",
    "verbosity": "In the Responses API this is 'text.verbosity'.",
    "logprobs": "In the Responses API this is 'include'.",
    "functions": "In the Responses API this is 'tools'.",
    "function_call": "In the Responses API this is 'tool_choice'.",
    "n": "A response is one answer.",
    "modalities": "A response is text.",
    "audio": "A response is text.",
}
#: What `include` can ask for here: the rest belongs to built-in tools. Reasoning is told in plain text,
#: which a client can send back as well as an encrypted one.
_INCLUDABLE = frozenset(
    {"message.output_text.logprobs", "message.input_image.image_url", "reasoning.encrypted_content"}
)
#: Fields that are answered for here; every other one is the model's and reaches it untouched.
_HANDLED = frozenset(
    {"model", "input", "instructions", "previous_response_id", "store", "metadata", "include", "truncation"}
    | {"stream", "stream_options", "max_output_tokens", "text", "reasoning", "tools", "tool_choice"}
    | {"top_logprobs", "strategy", "veridical", *_REFUSED}
)
_NUMBERS: Mapping[str, tuple[type | tuple[type, ...], float, float]] = {
    "max_output_tokens": (int, 1, float("inf")),
    "temperature": ((int, float), 0, 2),
    "top_p": ((int, float), 0, 1),
    "top_logprobs": (int, 0, 20),
}
_KINDS: Mapping[str, tuple[type, str]] = {
    "stream": (bool, "a boolean"),
    "store": (bool, "a boolean"),
    "instructions": (str, "a string"),
    "previous_response_id": (str, "a string"),
    "metadata": (dict, "an object"),
    "include": (list, "an array"),
    "text": (dict, "an object"),
    "reasoning": (dict, "an object"),
    "tools": (list, "an array"),
    "stream_options": (dict, "an object"),
}


@dataclass(frozen=True, slots=True)
class ResponsesBody:
    """A request body with a model; the rest is looked at once it is known not to be relayed."""

    body: Mapping[str, Any]
    controls: Controls
    asked: tuple[Stage, ...] | None

    @property
    def model(self) -> str:
        """The name that the client asks for."""
        return str(self.body["model"])

    @property
    def stream(self) -> bool:
        """Whether the answer is to be streamed."""
        return bool(self.body.get("stream"))

    @property
    def previous(self) -> str | None:
        """The response that this one continues."""
        found = self.body.get("previous_response_id")
        return found if isinstance(found, str) else None

    @property
    def stored(self) -> bool:
        """Whether the response is to be kept for later: so unless the client says no."""
        return self.body.get("store") is not False

    @property
    def measured(self) -> Mapping[str, Any]:
        """What of its own costs tokens, as a chat's body; it may not have been checked yet."""
        given, length = self.body.get("input"), self.body.get("max_output_tokens")
        items = [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []
        texts = [given, self.body.get("instructions"), *(item.get("content") for item in items)]
        texts += [item.get("output") for item in items]
        parts = [each if isinstance(each, str) else _parts(each) for each in texts]
        return {"messages": [{"content": each} for each in parts], "max_tokens": length}

    def items(self) -> list[Item]:
        """The request's own input."""
        return input_items(self.body.get("input"))

    def chat(
        self, history: Sequence[Item], items: Sequence[Item], adapted: Callable[[Params], Params]
    ) -> ChatBody:
        """The same question as a chat; `adapted` gives parameters the names that the backend knows.

        Raises:
            InvalidRequest: a field has the wrong shape; names it.
            UnsupportedParameter: a field, or a part of one, that a chat cannot keep; names it.
        """
        _check(self.body)
        messages = messages_of([*history, *items], known=len(history))
        if self.body.get("instructions"):
            messages = [{"role": "system", "content": self.body["instructions"]}, *messages]
        if not messages:
            raise InvalidRequest("'input' must not be empty.", param="input")
        body = {
            **{name: value for name, value in self.body.items() if name not in _HANDLED},
            **_length(self.body, adapted),
            **_text_options(self.body.get("text") or {}),
            **_reasoning(self.body.get("reasoning") or {}),
            **_tools(self.body),
            **_logprobs(self.body),
            "model": self.model,
            "messages": messages,
            "stream": self.stream,
        }
        return ChatBody(body, self.controls, self.asked)


def _check(body: Mapping[str, Any]) -> None:
    for name, (kind, words) in _KINDS.items():
        if not isinstance(body.get(name), kind | None):
            raise InvalidRequest(f"{name!r} must be {words}.", param=name)
    for name, (numbers, low, high) in _NUMBERS.items():
        _check_number(name, body.get(name), numbers, low, high)
    for name, words in _REFUSED.items():
        if body.get(name) not in (None, False):
            raise UnsupportedParameter(words, param=name)
    if body.get("truncation") not in (None, "disabled"):
        raise UnsupportedParameter("Nothing is left out of a conversation here.", param="truncation")
    if (body.get("stream_options") or {}).get("include_obfuscation"):
        raise UnsupportedParameter("Events are not padded.", param="stream_options.include_obfuscation")
    for wanted in body.get("include") or ():
        if not isinstance(wanted, str) or wanted not in _INCLUDABLE:
            raise UnsupportedParameter(f"{shown(str(wanted))} cannot be included.", param="include")


def _parts(content: Any) -> list[Any]:
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def read_responses_body(raw: bytes, strategy_header: str | None = None) -> ResponsesBody:
    """Read what of a body decides where it goes.

    Raises:
        InvalidRequest: it is no JSON object, names no model, or a field of ours has the wrong shape.
    """
    body = read_object(raw)
    check_model(body)
    return ResponsesBody(body, *read_controls(body, strategy_header))


def _check_number(name: str, value: Any, kinds: Any, low: float, high: float) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise InvalidRequest(f"{name!r} must be a number.", param=name)
    if not low <= value <= high:
        raise InvalidRequest(f"{name!r} is out of range.", param=name)


def _length(body: Mapping[str, Any], adapted: Callable[[Params], Params]) -> Params:
    if body.get("max_output_tokens") is None:
        return {}
    named = adapted({"max_tokens": body["max_output_tokens"]})
    if not named:
        raise UnsupportedParameter("The backend takes no limit.", param="max_output_tokens")
    return named


def _text_options(text: Mapping[str, Any]) -> Params:
    """`text` as `response_format` and `verbosity`."""
    form = text.get("format") or {}
    if not isinstance(form, dict):
        raise InvalidRequest("'text.format' must be an object.", param="text.format")
    found: dict[str, Any] = {}
    for name in text:
        if name not in ("format", "verbosity"):
            raise UnsupportedParameter("A chat has no place for it.", param=f"text.{name}")
    if text.get("verbosity") is not None:
        found["verbosity"] = text["verbosity"]
    match form.get("type"):
        case None | "text":
            pass
        case "json_schema":
            schema = {name: value for name, value in form.items() if name != "type"}
            found["response_format"] = {"type": "json_schema", "json_schema": schema}
        case "json_object":
            found["response_format"] = form
        case kind:
            words = f"No format of type {shown(str(kind))} is known."
            raise UnsupportedParameter(words, param="text.format.type")
    return found


def _reasoning(reasoning: Mapping[str, Any]) -> Params:
    """`reasoning.effort` as a chat's `reasoning_effort`. A chat makes no summaries."""
    for name, value in reasoning.items():
        if name == "effort" or value is None or (name in ("summary", "generate_summary") and value == "auto"):
            continue
        raise UnsupportedParameter("A chat has no place for it.", param=f"reasoning.{name}")
    effort = reasoning.get("effort")
    return {} if effort is None else {"reasoning_effort": effort}


def _tools(body: Mapping[str, Any]) -> Params:
    found: dict[str, Any] = {}
    if body.get("tools"):
        found["tools"] = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(body["tools"])]
    if body.get("tool_choice") is not None:
        found["tool_choice"] = _tool_choice(body["tool_choice"], "tool_choice")
    return found


def _tool(tool: Any, path: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise InvalidRequest("A tool must be an object.", param=path)
    if tool.get("type") != "function":
        words = f"Tools of type {shown(str(tool.get('type')))} are not run here: only functions are."
        raise UnsupportedParameter(words, param=f"{path}.type")
    function = {name: value for name, value in tool.items() if name != "type" and value is not None}
    return {"type": "function", "function": function}


def _tool_choice(choice: Any, path: str) -> Any:
    if isinstance(choice, str):
        return choice
    match choice:
        case {"type": "function", "name": str(name)}:
            return {"type": "function", "function": {"name": name}}
        case {"type": "allowed_tools", "mode": mode, "tools": list(tools)}:
            allowed = [_tool_choice(tool, f"{path}.tools[{index}]") for index, tool in enumerate(tools)]
            return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": allowed}}
    raise UnsupportedParameter("Only functions can be chosen.", param=path)


def _logprobs(body: Mapping[str, Any]) -> Params:
    top = body.get("top_logprobs")
    asked = "message.output_text.logprobs" in (body.get("include") or ())
    if not asked and not top:
        return {}
    return {"logprobs": True} if not top else {"logprobs": True, "top_logprobs": top}
