"""Each task's scores from scripted replies, through `veridical eval run`."""

import asyncio
import json
import math
import threading
from types import SimpleNamespace

import pytest
from aiohttp import web

from veridical.evals.likelihood import NoPromptLogprobs, continuation_sum
from veridical.evals.records import RecordFile
from veridical.tests.answers import Fail, Say
from veridical.tests.evals.conftest import write

pytestmark = pytest.mark.timeout(600)  # whole runs, on machines that have other work


def records(out):
    return list(RecordFile(out))


def choosing(*letters):
    """Replies that give these letters in turn, by what stands in the prompt."""
    left = list(letters)
    return lambda exchange: Say(left.pop(0))


def test_truthfulqa_binary_shows_a_bias_for_a_letter(run, data, out, upstream):
    rows = [
        {
            "Type": "t",
            "Category": f"c{n}",
            "Question": f"Q{n}?",
            "Best Answer": "so",
            "Best Incorrect Answer": "no",
        }
        for n in range(3)
    ]
    write(data / "truthfulqa/TruthfulQA.csv", rows)
    upstream.on(draft=choosing("A", "A", "B", "A", "dunno", "A"))
    run("run", "truthfulqa_mc", "--limit", 3, "--max-connections", 1)
    found = records(out)
    assert len(found) == 6  # a limit counts questions, each in both orders
    assert [record.scores["accuracy"] for record in found] == [1, 0, 0, 0, 0, 0]
    assert [record.scores.get("said_a") for record in found] == [1, 1, 0, 1, None, 1]
    assert [record.parsed for record in found] == [True, True, True, True, False, True]
    assert found[0].group == found[1].group != found[2].group
    assert "Q0" not in (out / "records.jsonl").read_text()


def test_triviaqa_fever_popqa_and_openbookqa_score_what_is_said(run, data, out, upstream):
    write(
        data / "triviaqa/triviaqa_sample.jsonl",
        [{"id": "t", "question": "Trivia?", "answers": ["x", "Jean Paul"]}],
    )
    write(data / "fever/paper_dev.jsonl", [{"id": 5, "claim": "Claim.", "label": "REFUTES"}])
    popular = {"id": 6, "question": "Pop?", "possible_answers": ["Norvian"], "s_pop": 12}
    write(data / "popqa/popqa_1000.jsonl", [popular])
    upstream.on(draft=Say("It was jean-paul"))
    run("run", "triviaqa")
    upstream.on(draft=Say("Refuted."))
    run("run", "fever")
    upstream.on(draft=Say("He was norvian."))
    run("run", "popqa")
    trivia, fever, popqa = records(out)
    assert trivia.scores == {"em": 0.0, "f1": pytest.approx(2 / 3)}
    assert (fever.scores, fever.tags) == ({"accuracy": 1.0}, ("REFUTES",))
    assert (popqa.scores, popqa.tags) == ({"accuracy": 1.0, "em": 0.0}, ("views<100",))


PAIR = {"knowledge": "K.", "question": "Who?", "right_answer": "Ann", "hallucinated_answer": "Bob"}


def test_halueval_counts_both_answers_of_a_pair(run, data, out, upstream):
    write(data / "halueval/qa_one-turn_data.jsonl", [PAIR])
    upstream.on(draft=Say("Yes"))
    run("run", "halueval")
    right, wrong = sorted(records(out), key=lambda record: record.tags, reverse=True)  # in any order
    assert (right.tags, right.scores) == (("right",), {"accuracy": 0.0, "said_yes": 1.0})
    assert (wrong.tags, wrong.scores) == (("hallucinated",), {"accuracy": 1.0, "said_yes": 1.0})


def test_halueval_reads_a_detectors_claims(run, data, out, upstream):
    write(data / "halueval/qa_one-turn_data.jsonl", [PAIR])

    def detector(exchange):
        answer = "Ann" if "Ann" in exchange.prompt else "Bob"
        claims = [{"text": answer, "verdict": "supported" if answer == "Ann" else "not_enough_info"}]
        return Say(answer, extra={"veridical": {"claims": claims, "calls": 4}})

    upstream.on(draft=detector)
    run("run", "halueval", "-T", "setting=claims")
    assert [record.scores["accuracy"] for record in records(out)] == [1.0, 1.0]
    assert records(out)[0].calls == 4
    upstream.on(
        draft=Say("Ann, of course", extra={"veridical": {"claims": [{"text": "x", "verdict": "refuted"}]}})
    )
    run("run", "halueval", "-T", "setting=claims", "--variant", "other words")
    assert [record.parsed for record in records(out)[2:]] == [False, False]


def test_cited_pages_are_scored_as_supporting_facts(run, out, upstream):
    def cites(*ids):
        evidence = [
            {"id": f"p{n}", "title": title} for n, title in enumerate(["Page 1", "Other page 1", "Else"])
        ]
        support = [{"start": 0, "end": 5, "evidence": list(ids)}]
        return Say("Amber [1]", extra={"veridical": {"evidence": evidence, "support": support}})

    upstream.on(draft=[cites("p0", "p2"), Say("Amber")])
    run("run", "hotpotqa", "-T", "setting=open", "--limit", 2, "--max-connections", 1)
    cited, silent = records(out)
    assert cited.scores == {"em": 1, "f1": 1, "sp_em": 0, "sp_f1": 0.5, "joint_em": 0, "joint_f1": 0.5}
    assert (silent.scores["sp_f1"], silent.scores["joint_f1"]) == (0, 0)
    assert silent.scores.keys() == cited.scores.keys()


JUDGE = ("--judge", "the-judge")


def judging(answer, **verdicts):
    """An upstream that is both the model (`answer`) and the judge, told apart by the model's name."""

    def reply(exchange):
        if exchange.body["model"] != "the-judge":
            return Say(answer)
        return Say(
            next(text for words, text in verdicts.items() if words.replace("_", " ") in exchange.prompt)
        )

    return reply


def test_simpleqa_takes_the_judges_grade(run, data, out, upstream):
    write(data / "simpleqa/simple_qa_test_set.csv", [{"metadata": "{}", "problem": "Who?", "answer": "Ann"}])
    upstream.on(draft=judging("Bob", Right_answer='{"grade": "incorrect"}'))
    run("run", "simpleqa", *JUDGE)
    (record,) = records(out)
    assert record.scores == {"correct": 0.0, "attempted": 1.0, "given_attempted": 0.0}
    (asked,) = [chat.body for chat in upstream.chats if chat.body["model"] == "the-judge"]
    assert asked["temperature"] == 0
    assert asked["response_format"]["json_schema"]["schema"]["required"] == ["grade"]
    told = json.loads((out / "run.json").read_text())["runs"][0]["judge"]
    assert (told["model"], len(told["prompt_hash"])) == ("the-judge", 12)


def test_without_a_judge_a_judged_task_is_refused(run, data):
    write(data / "simpleqa/simple_qa_test_set.csv", [{"metadata": "{}", "problem": "Who?", "answer": "Ann"}])
    assert "--judge MODEL" in run("run", "simpleqa", exit_code=1).stderr


def test_a_judge_that_does_not_fit_leaves_the_sample_ungraded(run, data, out, upstream):
    write(data / "simpleqa/simple_qa_test_set.csv", [{"metadata": "{}", "problem": "Who?", "answer": "Ann"}])
    upstream.on(draft=judging("Bob", Right_answer='{"grade": "CORRECT"}'))
    run("run", "simpleqa", *JUDGE)
    (record,) = records(out)
    assert (record.graded, record.answer) == (False, "Bob")
    assert "did not fit, twice" in record.error
    upstream.on(draft=judging("Bob", Right_answer='```json\n{"grade": "correct"}\n```'))
    run("run", "simpleqa", *JUDGE)
    assert records(out)[0].scores["correct"] == 1


TRUTHFUL = {
    "Type": "t",
    "Category": "c",
    "Question": "What do stones eat?",
    "Correct Answers": "Stones never eat anything at all; Stones do not eat",
    "Incorrect Answers": "Stones eat moss",
}


def test_truthfulqa_gen_reports_truth_information_and_both(run, data, out, upstream):
    write(data / "truthfulqa/TruthfulQA.csv", [TRUTHFUL])
    upstream.on(
        draft=judging(
            "Stones never eat anything at all", truthful='{"answer": true}', informative='{"answer": false}'
        )
    )
    run("run", "truthfulqa_gen", *JUDGE)
    (record,) = records(out)
    assert next(iter(record.scores)) == "both"
    assert (record.scores["both"], record.scores["truthful"], record.scores["informative"]) == (0, 1, 0)
    # against the true reference all 6 words; against "Stones eat moss." 2 of 6 and of 3: F1 4/9
    assert record.scores["rouge1_acc"] == 1
    assert record.scores["rouge1_diff"] == pytest.approx(5 / 9)
    assert record.scores["bleu_acc"] == 1


def test_truthfulqa_gen_takes_silence_as_no_comment_and_needs_no_judge_for_similarity(
    run, data, out, upstream
):
    write(data / "truthfulqa/TruthfulQA.csv", [TRUTHFUL])
    upstream.on(draft=Say(""))
    run("run", "truthfulqa_gen", "-T", "setting=similarity")
    (record,) = records(out)
    assert "both" not in record.scores
    assert record.scores["rouge1_acc"] == 1  # "I have no comment." is among the true references


def people(data, *names):
    """Entities with a page each, and one without."""
    known = {"group": "labeled", "rarity": "rare"}
    rows = [{"entity": name, "prompt": f"Tell me a bio of {name}.", **known} for name in (*names, "Nobody")]
    pages = [
        {"entity": name, "title": name, "text": "Marrow taught at Orsk.", "is_entity_page": True}
        for name in names
    ]
    write(data / "factscore/entities.jsonl", rows)
    write(data / "factscore/wiki_passages.jsonl.gz", pages)


@pytest.fixture
def biographies(data):
    people(data, "Pell Marrow")


def facts_and_verdicts(response, facts):
    def reply(exchange):
        if exchange.body["model"] != "the-judge":
            return Say(response)
        if "Break the sentence" in exchange.prompt:
            return Say(json.dumps({"facts": facts}))
        return Say(json.dumps({"answer": "Orsk" in exchange.prompt.partition("Statement:")[2]}))

    return reply


def test_factscore_judges_each_fact_against_the_entitys_page(run, out, upstream, biographies):
    facts = ["Marrow taught at Orsk.", "Marrow climbed.", "Marrow sang at Orsk.", "Marrow wrote."]
    upstream.on(draft=facts_and_verdicts("Pell Marrow taught and sang at Orsk.", facts))
    run("run", "factscore", *JUDGE)
    (record,) = records(out)  # the entity without a page is not asked
    assert (record.id, record.group, record.tags) == ("Pell Marrow", "Pell Marrow", ("rare",))
    assert record.scores == {
        "factscore": pytest.approx(0.5 * math.exp(1 - 10 / 4)),
        "precision": 0.5,
        "responded": 1.0,
        "facts": 4.0,
        "judged": 4.0,
    }
    assert (record.calls, record.prompt_tokens) == (1, 7)  # the judge's work is not the strategy's
    verdicts = [chat.prompt for chat in upstream.chats if "Statement:" in chat.prompt]
    assert all("Text: Marrow taught at Orsk." in prompt for prompt in verdicts)


def test_factscore_judges_no_more_facts_than_asked_for(run, out, upstream, biographies):
    facts = [f"Marrow climbed {word}." for word in ("Ash", "Birk", "Cor", "Dun")]
    upstream.on(draft=facts_and_verdicts("Pell Marrow climbed Ash, Birk, Cor and Dun.", facts))
    run("run", "factscore", *JUDGE, "-T", "facts=2", "-T", "gamma=0")
    (record,) = records(out)
    assert (record.scores["facts"], record.scores["judged"], record.scores["factscore"]) == (4, 2, 0)
    assert record.setting == "labeled,facts=2,gamma=0"


def test_factscore_leaves_abstentions_out_of_the_mean(run, data, out, upstream):
    people(data, "Ann Marrow", "Pell Marrow")
    answer = facts_and_verdicts("Pell Marrow taught at Orsk.", ["Marrow taught at Orsk."] * 2)
    upstream.on(draft=lambda chat: Say("I'm sorry, no.") if "bio of Ann" in chat.prompt else answer(chat))
    result = run("run", "factscore", *JUDGE, "-T", "gamma=0")
    abstained, responded = sorted(records(out), key=lambda record: record.id)
    assert (abstained.graded, abstained.scores) == (True, {"responded": 0.0})
    assert (responded.scores["factscore"], responded.scores["facts"]) == (1, 1)
    assert "2/2, factscore 1.000" in result.stderr


def test_a_judge_is_validated_on_human_labels(run, data, out, upstream, biographies):
    human = [
        {"text": "Marrow taught at Orsk.", "label": "S"},
        {"text": "Marrow climbed.", "label": "S"},
        {"text": "He sang.", "label": "NS"},
    ]
    row = {
        "topic": "Pell Marrow",
        "annotations": [{"text": "s", "human-atomic-facts": human, "model-atomic-facts": []}],
    }
    for system in ("ChatGPT", "InstructGPT", "PerplexityAI"):
        write(data / f"factscore/labeled/{system}.jsonl", [row])
    upstream.on(
        draft=lambda exchange: Say(
            json.dumps({"answer": "Orsk" in exchange.prompt.partition("Statement:")[2]})
        )
    )
    words = ("judge", "validate", "--on", "factscore", "--n", 10)
    printed = run(*words).stdout
    assert "agreement 66.7%" in printed
    assert "on 9 labels (0 ungraded)" in printed
    assert "ChatGPT -33.3" in printed  # it finds 1 of 3 supported, people 2
    asked = len(upstream.chats)
    told = json.loads((out / "run.json").read_text())["runs"][0]
    assert told["judge_validation"]["kappa"] == pytest.approx(0.4)
    assert told["judge"]["model"] == "m1"
    run(*words)
    assert len(upstream.chats) == asked  # a validation resumes like any run
    assert "--on takes" in run("judge", "validate", "--on", "nothing", exit_code=1).stderr


OPTIONS = {"question": "Q?", "mc1_targets": {"so": 1, "no": 0}, "mc2_targets": {"so": 1, "ay": 1, "no": 0}}
CHANCES = {"so": 0.2, "ay": 0.1, "no": 0.3}


def completion(body, *, shift=0):
    """A vLLM-like echo: one token for the prompt, one for " " + option's first half, one for the rest."""
    prompt = body["prompt"]
    start = len(prompt) - len(prompt.rpartition("A:")[2])
    chance = CHANCES[prompt[start:].strip()]
    logprobs = {
        "text_offset": [0, start + shift, start + 2 + shift, len(prompt)],
        "token_logprobs": [None, math.log(chance) - 1, 1.0, -50.0],
    }
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    choice = {"index": 0, "text": prompt + "!", "finish_reason": "length", "logprobs": logprobs}
    return {
        "id": "x",
        "object": "text_completion",
        "created": 1,
        "model": "m1",
        "choices": [choice],
        "usage": usage,
    }


@pytest.fixture
def completions():
    """A completions endpoint that echoes."""
    loop, asked = asyncio.new_event_loop(), []

    async def handle(request):
        asked.append(await request.json())
        return web.json_response(completion(asked[-1]))

    app = web.Application()
    app.router.add_post("/v1/completions", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def start():
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{runner.addresses[0][1]}/v1", asked=asked)
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def test_truthfulqa_log_probabilities_give_the_official_scores(run, data, out, completions, tmp_path):
    write(data / "truthfulqa/mc_task.json", [OPTIONS])
    run("run", "truthfulqa_mc", "-T", "setting=logprob", url=completions.url)
    (record,) = records(out)
    assert record.scores == {"mc1": 0.0, "mc2": pytest.approx(0.3 / 0.6), "mc3": 0.0}
    assert (record.calls, record.prompt_tokens) == (3, 9)
    assert {body["prompt"] for body in completions.asked} == {f"Q: Q?\nA: {option}" for option in CHANCES}
    assert {(body["echo"], body["max_tokens"]) for body in completions.asked} == {(True, 1)}
    primer = tmp_path / "six.txt"
    primer.write_text("Q: Is it?\nA: It is.\n")
    run("run", "truthfulqa_mc", "-T", "setting=logprob", "-T", f"primer={primer}", url=completions.url)
    assert completions.asked[-1]["prompt"].startswith("Q: Is it?\nA: It is.\n\nQ: Q?\nA: ")


def test_log_probabilities_are_refused_where_they_would_be_wrong():
    def told(offsets, values):
        return SimpleNamespace(text_offset=offsets, token_logprobs=values)

    assert continuation_sum(told([0, 4, 7, 9], [None, -1.0, -2.0, -9.0]), 4, 9) == -3.0
    with pytest.raises(NoPromptLogprobs, match="straddles"):
        continuation_sum(told([0, 3, 7], [None, -1.0, -2.0]), 4, 9)
    for silent in (None, told([], []), told([9], [-1.0])):
        with pytest.raises(NoPromptLogprobs, match="echo"):
            continuation_sum(silent, 4, 9)


def test_an_endpoint_without_completions_is_told_in_the_record(run, data, out, upstream):
    write(data / "truthfulqa/mc_task.json", [OPTIONS])
    upstream.on(draft=Fail(500))
    run("run", "truthfulqa_mc", "-T", "setting=logprob")
    (record,) = records(out)
    assert (record.graded, "404" in record.error) == (False, True)
