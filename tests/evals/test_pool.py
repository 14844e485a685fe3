"""One pool of draws, and the equal-calls controls that are votes over its first k."""

import itertools

import pytest

from veridical.evals.pool import elected
from veridical.evals.records import Record, RecordFile
from veridical.evals.running import seed_of
from veridical.tests.answers import Say
from veridical.tests.evals.conftest import HOTPOT, evaluate

pytestmark = pytest.mark.timeout(600)  # whole runs, on machines that have other work


def draw(answer, number=0, **more):
    scores = {"em": float(answer == "right")}
    cost = {"prompt_tokens": 10, "completion_tokens": 2, "seconds": float(number), "calls": 1, "depth": 1}
    given = {"task": "hotpotqa", "model": "m1", "strategy": "direct", "variant": "pool", "id": "q"}
    return Record(**given, sample=number, answer=answer, scores=scores, **{**cost, **more})


def vote(answers, k):
    draws = [draw(answer, number) for number, answer in enumerate(answers)]
    return elected(draws[:k], lambda answer: answer or None)


def test_the_answer_that_most_draws_agree_on_wins():
    won = vote(["wrong", "right", "right", "other"], 4)
    assert (won.answer, won.scores, won.confidence) == ("right", {"em": 1.0}, 0.5)
    assert (won.strategy, won.variant, won.sample) == ("self_consistency(n=4)", "from pool", 0)
    assert (won.calls, won.depth, won.prompt_tokens, won.completion_tokens) == (4, 1, 40, 8)
    assert won.seconds == 3.0


def test_only_the_first_draws_count_and_a_tie_goes_to_the_first():
    assert vote(["wrong", "right", "right"], 2).answer == "wrong"
    assert vote(["a", "b"], 2).confidence == 0.5


def test_a_draw_without_an_answer_has_no_vote():
    won = vote(["", "", "right"], 3)
    assert (won.answer, won.confidence) == ("right", 1 / 3)
    nothing = vote(["", ""], 2)
    assert (nothing.answer, nothing.confidence, nothing.scores) == ("", None, {"em": 0.0})


def test_a_pool_is_drawn_with_a_seed_for_each_draw_and_serves_the_controls(run, out, upstream):
    (question,) = {record["id"] for record in HOTPOT[:1]}
    seeds = [seed_of(4, question, number) for number in range(4)]
    upstream.on(
        draft=lambda exchange: Say(
            "Amber" if exchange.body["seed"] in seeds[2:] else f"no {exchange.body['seed']}"
        )
    )
    run("pool", "hotpotqa", "--n", 4, "--limit", 1, "--seed", 4)
    found = sorted(RecordFile(out), key=lambda record: record.sample)  # they end in any order
    assert [(record.sample, record.variant, record.scores["em"]) for record in found] == [
        (0, "pool", 0), (1, "pool", 0), (2, "pool", 1), (3, "pool", 1)
    ]  # fmt: skip
    assert {chat.body["temperature"] for chat in upstream.chats} == {0.7}
    assert sorted(chat.body["seed"] for chat in upstream.chats) == sorted(seeds)
    run("pool", "hotpotqa", "--n", 4, "--limit", 1, "--seed", 4)
    assert len(upstream.chats) == 4
    told = evaluate("controls", "--out", out, "--calls", 2, "--calls", 4).stdout
    assert "self_consistency(n=4), 1 questions" in told
    two, four = (record for record in RecordFile(out) if record.variant == "from pool")
    assert (two.scores["em"], four.scores["em"], four.calls) == (0, 1, 4)
    assert "4 draws a question, not 5" in evaluate("controls", "--out", out, "--calls", 5, exit_code=1).stderr


def test_no_two_questions_share_the_seeds_of_their_draws(run, out, upstream):
    upstream.on(draft=Say("Amber"))
    run("pool", "hotpotqa", "--n", 3, "--limit", 2)
    assert len({chat.body["seed"] for chat in upstream.chats}) == 6
    run("run", "hotpotqa", "--limit", 2)
    assert len({chat.body["seed"] for chat in upstream.chats[6:]}) == 2


def test_controls_match_the_calls_of_the_other_strategies(tmp_path):
    file = RecordFile(tmp_path)
    for number in range(8):
        file.append(draw("right", number))
    for name, calls in itertools.product("qr", (4, 7)):
        file.append(
            draw("x").model_copy(
                update={"strategy": f"cove{calls}", "variant": "", "id": name, "calls": calls}
            )
        )
    file.append(draw("x").model_copy(update={"variant": "", "calls": 1}))
    evaluate("controls", "--out", tmp_path)
    made = [record.strategy for record in RecordFile(tmp_path) if record.variant == "from pool"]
    assert made == ["self_consistency(n=4)", "self_consistency(n=7)"]


def test_a_pool_is_needed_and_long_answers_have_no_vote(tmp_path):
    assert "has no pool" in evaluate("controls", "--out", tmp_path, exit_code=1).stderr
    RecordFile(tmp_path).append(draw("x").model_copy(update={"task": "factscore"}))
    assert "cannot be put to the vote" in evaluate("controls", "--out", tmp_path).stdout
