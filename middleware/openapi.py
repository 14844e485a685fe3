"""What the OpenAPI page says of the chat endpoint, whose body is read ahead of FastAPI."""

from __future__ import annotations

from typing import Any

from veridical.middleware.protocol import BudgetRequest, Controls

# Without its nested definition, which a page cannot refer to from inside an operation.
_CONTROLS = Controls.model_json_schema()
_CONTROLS["properties"]["budget"] = BudgetRequest.model_json_schema()
_CONTROLS.pop("$defs", None)

CHAT_DOCUMENTATION: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["model", "messages"],
                    "additionalProperties": True,
                    "properties": {
                        "model": {"type": "string", "minLength": 1, "description": "MODEL or MODEL+STRATEGY"},
                        "messages": {
                            "type": "array",
                            "minItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["role"],
                                "properties": {"role": {"type": "string"}},
                            },
                        },
                        "stream": {"type": "boolean"},
                        "n": {"type": "integer", "minimum": 1},
                        "strategy": {"description": "Short form of veridical.strategy"},
                        "veridical": _CONTROLS,
                    },
                }
            }
        },
    }
}
