"""The official SDK for Python."""

import asyncio

import openai
import pydantic
import pytest

from clients_target import CHAT, KEY, QUESTION

LOOK = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": LOOK, "strict": True}}
FLAT = {"type": "function", "name": "weather", "parameters": LOOK, "strict": True}
SHORT = {"max_tokens": 100, "temperature": 0}


class Capital(pydantic.BaseModel):
    city: str


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


def test_chat(client, model):
    answer = client.chat.completions.create(model=model, messages=CHAT, **SHORT)
    assert "Canberra" in answer.choices[0].message.content
    assert answer.usage.total_tokens > 0


def test_chat_async(url, model):
    async def ask():
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=120) as client:
            return await asyncio.gather(
                *(client.chat.completions.create(model=model, messages=CHAT, **SHORT) for _ in range(3))
            )

    assert all("Canberra" in answer.choices[0].message.content for answer in asyncio.run(ask()))


def test_chat_stream(client, model):
    chunks = list(
        client.chat.completions.create(
            model=model, messages=CHAT, stream=True, stream_options={"include_usage": True}, **SHORT
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert "Canberra" in text
    assert chunks[-1].usage.total_tokens > 0


def test_chat_stream_helper(client, model):
    with client.chat.completions.stream(model=model, messages=CHAT, **SHORT) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content


def test_chat_parse(client, model):
    answer = client.chat.completions.parse(model=model, messages=CHAT, response_format=Capital, **SHORT)
    assert answer.choices[0].message.parsed.city


def test_chat_tools(client, model):
    asked = [{"role": "user", "content": "What is the weather in Canberra?"}]
    first = client.chat.completions.create(
        model=model, messages=asked, tools=[TOOL], tool_choice="required", **SHORT
    )
    (call,) = first.choices[0].message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny."}
    told = [*asked, first.choices[0].message.model_dump(exclude_none=True), result]
    last = client.chat.completions.create(model=model, messages=told, tools=[TOOL], **SHORT)
    assert last.choices[0].message.content


def test_chat_n(client, model):
    answer = client.chat.completions.create(model=model, messages=CHAT, n=1, seed=7, stop=["##"], **SHORT)
    assert len(answer.choices) == 1


def test_responses(client, model):
    answer = client.responses.create(model=model, input=QUESTION, instructions="Be brief.", temperature=0)
    assert "Canberra" in answer.output_text
    assert answer.usage.total_tokens > 0


def test_responses_stream(client, model):
    with client.responses.stream(model=model, input=QUESTION, max_output_tokens=100) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text


def test_responses_async_stream(url, model):
    async def ask():
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=120) as client:
            stream = await client.responses.create(model=model, input=QUESTION, stream=True)
            return [event async for event in stream]

    assert asyncio.run(ask())[-1].type == "response.completed"


def test_responses_parse(client, model):
    answer = client.responses.parse(model=model, input=QUESTION, text_format=Capital, temperature=0)
    assert answer.output_parsed.city


def test_responses_tools_and_continuing(client, model):
    first = client.responses.create(
        model=model, input="What is the weather in Canberra?", tools=[FLAT], tool_choice="required"
    )
    (call,) = [item for item in first.output if item.type == "function_call"]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}
    last = client.responses.create(model=model, input=[result], tools=[FLAT], previous_response_id=first.id)
    assert last.output_text


def test_embeddings(client, model):
    made = client.embeddings.create(model=model.partition("+")[0], input="x", encoding_format="float")
    assert made.data[0].embedding


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.APIStatusError):
        client.chat.completions.create(model="no-such-model", messages=CHAT)


def test_models(client, model):
    assert model in [each.id for each in client.models.list()]
