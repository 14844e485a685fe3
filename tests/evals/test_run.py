"""`veridical eval run` before a scripted endpoint: what is asked, recorded, resumed and told."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from veridical.evals import hotpotqa
from veridical.evals.catalogue import TASKS
from veridical.evals.records import RecordFile
from veridical.tests.answers import Fail, Say
from veridical.tests.evals.conftest import evaluate
from veridical.tests.proxy import wait_until
from veridical.tests.upstream import SYDNEY

pytestmark = pytest.mark.timeout(600)  # whole runs, on machines that have other work
ANSWERS = {"Aville": "Answer: Amber [1]", "Bton": "yes", "Dalen": "Erik Moe, I think"}


def reply(exchange):
    return Say(next(text for words, text in ANSWERS.items() if words in exchange.prompt))


@pytest.fixture
def ask(upstream, run):
    """`veridical eval run hotpotqa` against the upstream itself."""
    upstream.on(draft=reply)
    return partial(run, "run", "hotpotqa")


def by_id(out):
    return {record.id: record for record in RecordFile(out)}


def test_a_run_records_each_question_with_its_official_scores_and_cost(ask, out, upstream):
    result = ask()
    first, second, third = (record for _, record in sorted(by_id(out).items()))  # they end in any order
    assert (first.task, first.setting, first.model, first.strategy) == (
        "hotpotqa",
        "closed_book",
        "m1",
        "direct",
    )
    assert list(first.scores.items()) == [("em", 1.0), ("f1", 1.0)]  # "Answer:", [1] and "the" are no part
    assert first.answer == "Answer: Amber [1]"
    assert (second.tags, second.scores["em"]) == (("comparison",), 1.0)
    assert third.scores == {"em": 0.0, "f1": pytest.approx(4 / 6)}
    assert (third.calls, third.depth, third.prompt_tokens, third.completion_tokens) == (1, 1, 7, 3)
    assert 0 < third.seconds < 60
    assert "3/3, em 0.667" in result.stderr
    assert {(chat.body["temperature"], chat.body["max_tokens"]) for chat in upstream.chats} == {(0, 48)}


def test_a_strategy_is_asked_for_by_the_models_name_and_its_report_recorded(ask, out, upstream, proxy):
    upstream.cove("The capital of Australia is Sydney.", SYDNEY, final="Amber")
    ask(
        "--strategy",
        "direct",
        "--strategy",
        "cove(variant=factored,max_questions=2)",
        "--limit",
        1,
        url=proxy.url,
    )
    direct, cove = RecordFile(out)
    assert (direct.strategy, direct.calls, direct.status) == ("direct", 1, "")
    assert cove.strategy == "cove(variant=factored,max_questions=2)"
    assert (cove.calls, cove.depth, cove.status) == (4, 4, "verified")
    assert (cove.prompt_tokens, cove.scores["em"]) == (28, 1.0)


def test_limit_takes_the_first_questions_and_shuffle_others(ask, out):
    ask("--limit", 2)
    assert sorted(by_id(out)) == ["q1", "q2"]
    ask("--limit", 2, "--shuffle", "--seed", 3, "--variant", "shuffled")
    ask("--limit", 2, "--shuffle", "--seed", 3, "--variant", "again")
    chosen = {name: {r.id for r in RecordFile(out) if r.variant == name} for name in ("shuffled", "again")}
    assert chosen["shuffled"] == chosen["again"] != {"q1", "q2"}


def test_a_second_run_asks_only_what_is_missing(ask, out, upstream):
    ask("--limit", 1)
    asked = len(upstream.chats)
    result = ask()
    assert len(upstream.chats) == asked + 2
    assert "1 from before" in result.stderr
    ask()
    assert len(upstream.chats) == asked + 2
    assert len((out / "records.jsonl").read_text().splitlines()) == 3


def test_a_failed_sample_is_recorded_ungraded_and_asked_again(ask, out, upstream):
    upstream.on(draft=lambda exchange: Fail(400, "no") if "Bton" in exchange.prompt else reply(exchange))
    result = ask()
    failed = by_id(out)["q2"]
    assert (failed.graded, failed.scores) == (False, {})
    assert "no" in failed.error
    assert "1 failed" in result.stderr
    upstream.on(draft=reply)
    ask()
    assert all(record.graded for record in RecordFile(out))


def test_an_error_text_never_counts_as_an_answer(ask, out, upstream):
    too_long = {"error": {"message": "maximum context length exceeded", "code": "context_length_exceeded"}}
    upstream.on(draft=Fail(400, body=json.dumps(too_long).encode()))
    ask("--limit", 1)
    (record,) = RecordFile(out)
    assert (record.graded, record.answer) == (False, "")
    assert "context" in record.error


def test_an_empty_reply_is_unparsable_and_scores_nothing(ask, out, upstream):
    upstream.on(draft=Say("  "))
    result = ask("--limit", 1)
    (record,) = RecordFile(out)
    assert (record.graded, record.parsed, record.scores) == (True, False, {"em": 0.0, "f1": 0.0})
    assert "1 unparsable" in result.stderr


def test_the_settings_of_hotpotqa_are_told_apart(ask, out, upstream):
    ask("--limit", 1)
    ask("--limit", 1, "-T", "setting=distractor")
    ask("--limit", 1, "-T", "setting=open", "-T", "max_tokens=20")
    assert [record.setting for record in RecordFile(out)] == [
        "closed_book",
        "distractor",
        "open,max_tokens=20",
    ]
    closed, distractor, opened = upstream.chats
    assert "Page 1: Fact of page 1." in distractor.prompt
    assert "Other page 1: More. And more." in distractor.prompt
    assert "Page 1" not in closed.prompt
    assert closed.prompt == opened.prompt
    assert opened.body["max_tokens"] == 20


def test_run_json_tells_how_the_records_were_made(ask, out):
    ask("--limit", 1, "--seed", 5)
    ask()
    first, second = json.loads((out / "run.json").read_text())["runs"]
    assert first["versions"]["inspect-ai"]
    assert first["prompts"]["veridical.evals:question/short"].startswith("question/short@")
    assert (first["seed"], first["limit"], first["model"], first["done"]) == (5, 1, "m1", 1)
    assert first["tasks"][0]["data"] == "hotpotqa/dev_distractor.jsonl.gz"
    assert len(first["tasks"][0]["data_sha256"]) == 64
    assert second["done"] == 2
    assert first.keys() >= {"commit", "command", "started", "strategies", "temperature"}
    assert "logs/" in (out / ".gitignore").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-T", "setting=openn"), "setting is one of closed_book, open, distractor"),
        (("-T", "sett=1"), "no parameter 'sett'"),
        (("-T", "setting"), "name=value"),
        (("--index", "."), "for a proxy that is started here"),
        (("--api-key-env", "NOT_SET_HERE"), "NOT_SET_HERE"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_line(ask, words, told):
    result = ask(*words, exit_code=1)
    assert told in result.stderr
    assert result.stderr.count("\n") == 1


def test_unknown_tasks_and_missing_files_are_told_with_what_would_help(ask, out, tmp_path, upstream):
    given = ("--base-url", upstream.url, "--out", out, "--model", "m1")
    assert "Did you mean 'hotpotqa'" in evaluate("run", "hotpot", *given, exit_code=1).stderr
    missing = evaluate("run", "hotpotqa", *given, "--data", tmp_path, exit_code=1).stderr
    assert "hotpotqa/dev_distractor.jsonl" in missing
    assert "--data" in missing
    assert "VERIDICAL_DATA" in missing
    assert "hotpotqa/hotpot_qa" in missing


def _heeds_interrupts() -> None:
    """What is started in the background, as a build may be, ignores SIGINT, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_ended_in_the_middle_it_goes_on_without_repeating(ask, data, out, upstream, tmp_path, sent, status):
    held = threading.Event()

    def answer(exchange):
        return Say("x", delay=60) if "Dalen" in exchange.prompt and not held.is_set() else reply(exchange)

    upstream.on(draft=answer)
    command = [sys.executable, "-m", "veridical", "eval", "run", "hotpotqa", "--base-url", upstream.url]
    command += ["--data", str(data), "--out", str(out), "--model", "m1", "--max-connections", "1"]
    told = tmp_path / "told"
    with (
        told.open("w") as file,
        subprocess.Popen(command, stdout=file, stderr=file, preexec_fn=_heeds_interrupts) as child,
    ):
        wait_until(lambda: len(upstream.chats) == 3, 200)
        child.send_signal(sent)
        assert child.wait(60) == status
    held.set()
    assert ("the same command goes on" in told.read_text()) is (sent == signal.SIGINT)
    assert sorted(by_id(out)) == ["q1", "q2"]
    assert len(json.loads((out / "run.json").read_text())["runs"]) == 1
    ask()
    assert [("Dalen" in chat.prompt) for chat in upstream.chats[2:]] == [True, True]
    assert sorted(by_id(out)) == ["q1", "q2", "q3"]


def test_it_starts_a_proxy_of_its_own_and_ends_it(upstream, data, out, tmp_path):
    upstream.on(draft=reply)
    config = tmp_path / "my.toml"
    config.write_text(f"default_strategy = 'cove'\n[backends.up]\nbase_url = '{upstream.url}'\n")
    result = evaluate("run", "hotpotqa", "--limit", 1, "--data", data, "--out", out, "--config", config)
    (record,) = RecordFile(out)
    assert (record.model, record.scores["em"]) == ("m1", 1.0)  # the first model that it lists
    assert [chat.step for chat in upstream.chats] == ["draft"]  # direct, whatever the proxy's default
    port = int(result.stderr.partition("127.0.0.1:")[2].partition("/")[0])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    told = json.loads((out / "run.json").read_text())["runs"][0]
    assert told["config"]["name"] == "my.toml"


def test_a_proxy_that_cannot_start_is_told_with_its_own_words(data, out, tmp_path):
    config = tmp_path / "my.toml"
    config.write_text('default_strategy = "cov"\n')
    told = evaluate("run", "hotpotqa", "--data", data, "--out", out, "--config", config, exit_code=1).stderr
    assert "The proxy did not start" in told
    assert "Did you mean 'cove'" in told


def test_without_the_extra_the_command_says_what_is_missing(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("veridical.evals.catalogue")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    told = evaluate("list", exit_code=1).stderr
    assert told == "veridical: evaluations need inspect_ai: pip install 'veridical[evals]'\n"
    assert "judge" in evaluate("--help").stdout


def test_the_tasks_are_listed():
    found = {each["name"]: each for each in json.loads(evaluate("list", "--json").stdout)}
    assert set(found) == set(TASKS)
    assert found["hotpotqa"]["choices"] == {"setting": ["closed_book", "open", "distractor"]}
    assert "-T setting=closed_book (closed_book | open | distractor)" in evaluate("list").stdout


def test_a_task_also_runs_with_plain_inspect_eval(upstream, data, tmp_path):
    upstream.on(draft=reply)
    root = Path(hotpotqa.__file__).resolve().parents[1]
    command = [str(Path(sys.executable).with_name("inspect")), "eval", "evals/hotpotqa.py", "--limit", "2"]
    command += [
        "--model",
        "openai-api/veridical/m1",
        "-T",
        f"data={data}",
        "--log-dir",
        str(tmp_path / "logs"),
    ]
    keys = {"VERIDICAL_API_KEY": "none", "VERIDICAL_BASE_URL": upstream.url, "INSPECT_DISPLAY": "plain"}
    done = subprocess.run(
        command, env={**os.environ, **keys}, cwd=root, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "em" in done.stdout
    assert len(upstream.chats) == 2
