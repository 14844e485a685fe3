"""Reasoning of a model, in the three forms in use, is kept out of drafts, claims and checks."""

import pytest

from veridical.tests.answers import Say
from veridical.tests.upstream import CANBERRA, SYDNEY

WRONG, RIGHT = "The capital of Australia is Sydney.", "The capital of Australia is Canberra."
SECRET = "Hmm, let me ponder koalas."
FORMS = {
    "reasoning_content": lambda text: Say(text, message={"reasoning_content": SECRET}),
    "reasoning": lambda text: Say(text, message={"reasoning": SECRET}),
    "think": lambda text: Say(f"<think>\n{SECRET}\n</think>\n\n{text}", cut=4),
    "open think": lambda text: Say(f"  <think>{SECRET}</think>{text}", cut=1),
}
FORM = pytest.mark.parametrize("said", FORMS.values(), ids=FORMS.keys())
STREAMED = pytest.mark.parametrize("stream", [False, True])


def collected(answer) -> tuple[str, str]:
    """The answer's words, and its reasoning under either name."""
    if hasattr(answer, "choices"):
        parts = [answer.choices[0].message.to_dict()]
    else:
        parts = [chunk.choices[0].delta.to_dict() for chunk in answer if chunk.choices]
    reasoning = "".join(part.get("reasoning_content") or part.get("reasoning") or "" for part in parts)
    return "".join(part.get("content") or "" for part in parts), reasoning


@FORM
@STREAMED
@pytest.mark.parametrize("unchanged", [True, False])
def test_reasoning_stays_out_of_every_prompt_and_of_the_words(proxy, upstream, said, stream, unchanged):
    fact = CANBERRA if unchanged else SYDNEY
    upstream.cove(said(WRONG), fact, final=said(RIGHT))
    words, reasoning = collected(proxy.ask(model="m1+cove", stream=stream))
    assert words == (WRONG if unchanged else RIGHT)
    assert reasoning.strip() == SECRET
    assert not any("koalas" in exchange.prompt for exchange in upstream.chats)


@FORM
def test_reasoning_of_the_checks_is_no_part_of_claims(proxy, upstream, said):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    upstream.on(
        plan=said(upstream.script["plan"].text),
        check=said(SYDNEY.answer),
        cross_check=said(SYDNEY.compared().text),
    )
    answer = proxy.ask(model="m1+cove").to_dict()
    (claim,) = answer["veridical"]["claims"]
    assert (claim["answer"], claim["verdict"]) == (SYDNEY.answer, "refuted")
    assert "koalas" not in str(answer)


@STREAMED
def test_reasoning_without_words_is_no_draft_to_check(proxy, upstream, stream):
    upstream.on(draft=Say(f"<think>{SECRET}", finish="length"))
    words, reasoning = collected(proxy.ask(model="m1+cove", stream=stream))
    assert (words, reasoning) == ("", SECRET)
    assert len(upstream.chats) == 1


@STREAMED
def test_a_block_that_the_chat_template_opened_is_reasoning_too(proxy, upstream, stream):
    upstream.cove(f"{SECRET}</think>\n{RIGHT}", CANBERRA)
    words, reasoning = collected(proxy.ask(model="m1+cove", stream=stream))
    assert (words, reasoning) == (RIGHT, SECRET)


@STREAMED
def test_words_about_thinking_are_words(proxy, upstream, stream):
    text = "Write <think> first, and </think> behind it. The capital is Canberra."
    upstream.cove(text, CANBERRA)
    assert collected(proxy.ask(model="m1+cove", stream=stream)) == (text, "")


@STREAMED
def test_direct_leaves_the_models_message_as_it_is(proxy, upstream, stream):
    text = f"<think>{SECRET}</think>{RIGHT}"
    upstream.on(draft=Say(text))
    answer = proxy.ask(stream=stream, veridical={"trace": "summary"})
    assert collected(answer)[0] == text
