"""What the OpenAPI page says of chats and responses, whose bodies are read ahead of FastAPI."""

from __future__ import annotations

from typing import Any

from veridical.middleware.protocol import BudgetRequest, Controls

# Without its nested definition, which a page cannot refer to from inside an operation.
_CONTROLS = Controls.model_json_schema()
_CONTROLS["properties"]["budget"] = BudgetRequest.model_json_schema()
_CONTROLS.pop("$defs", None)

_OWN: dict[str, Any] = {
    "model": {"type": "string", "minLength": 1, "description": "MODEL or MODEL+STRATEGY"},
    "stream": {"type": "boolean"},
    "strategy": {"description": "Short form of veridical.strategy"},
    "veridical": _CONTROLS,
}
_MESSAGES = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "object", "required": ["role"], "properties": {"role": {"type": "string"}}},
}
_INPUT = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}


def _body(required: list[str], **properties: Any) -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": required,
        "additionalProperties": True,
        "properties": {**_OWN, **properties},
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


CHAT_DOCUMENTATION = _body(["model", "messages"], messages=_MESSAGES, n={"type": "integer", "minimum": 1})
RESPONSES_DOCUMENTATION = _body(
    ["model", "input"],
    input=_INPUT,
    instructions={"type": "string"},
    previous_response_id={"type": "string"},
    store={"type": "boolean"},
    max_output_tokens={"type": "integer", "minimum": 1},
)
