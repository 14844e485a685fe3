"""What `veridical eval` does with its options: an endpoint, a plan, a run, and a note of how it was made."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import click
import orjson
from inspect_ai.model import Model

from veridical.evals import validating
from veridical.evals.endpoint import Endpoint, own_proxy
from veridical.evals.progress import Progress
from veridical.evals.provenance import begin, file_hash, finish, provenance
from veridical.evals.records import RecordFile
from veridical.evals.running import Draws, MakeJudge, Outcome, Plan, Prepared, prepare, run
from veridical.evals.wording import versions
from veridical.middleware.client import Client
from veridical.middleware.config import load_settings
from veridical.strategies.errors import InvalidRequest, VeridicalError
from veridical.strategies.registry import strategy_from


@dataclass(frozen=True)
class Asked:
    """What the shared options say."""

    tasks: Sequence[str]
    out: Path
    data: str | None
    model: str | None
    label: str | None
    base_url: str | None
    api_key_env: str | None
    config: str | None
    index: str | None
    wikipedia: bool
    limit: int | None
    shuffle: bool
    seed: int
    max_connections: int
    arguments: Sequence[str]
    judge: str | None = None
    judge_url: str | None = None
    judge_key_env: str | None = None
    oracle_source: bool = False
    cache: bool = False


def carry_out(asked: Asked, strategies: Sequence[str], draws: Draws) -> None:
    """Run the plan on the endpoint, note how, and say how it ended (exit 130 when interrupted)."""
    progress, plan = Progress(), _plan(asked, strategies, draws)
    prepared = [prepare(plan, name) for name in plan.tasks]  # faults show before anything is started
    tasks = [each.described for each in prepared]
    with _endpoint(asked, progress) as endpoint:
        plan = _named(plan, asked, endpoint)
        _only_records_are_kept(asked.out)
        number = begin(asked.out, {**provenance(), **_conditions(asked, plan), "tasks": tasks})
        outcome = run(plan, prepared, endpoint, progress)
        finish(asked.out, number, done=outcome.done, failed=outcome.failed, interrupted=outcome.interrupted)
    _tell(outcome, asked.out, progress)


def validate(asked: Asked, sets: Sequence[str], n: int, shown: dict[str, int]) -> None:
    """Validate on each set, in a folder of its own beside the records, and note the agreement."""
    if unknown := set(sets) - validating.SETS.keys():
        raise InvalidRequest(f"--on takes {', '.join(validating.SETS)}, not {', '.join(sorted(unknown))}.")
    progress = Progress()
    with _endpoint(asked, progress) as endpoint:
        plan = _named(_plan(asked, ("direct",), Draws()), asked, endpoint)
        plan = replace(plan, out=asked.out / "judge", judge=_judge(replace(asked, judge=plan.model)))
        _only_records_are_kept(asked.out)
        for name in sets:
            extra = shown if name == "factscore" else {}
            samples = validating.SETS[name](asked.data, n, asked.seed, **extra)
            conditions = ",".join(
                f"{key}={value}" for key, value in {"n": n, "seed": asked.seed, **extra}.items()
            )
            prepared = Prepared(f"judge:{name}", conditions, validating.validation(samples))
            outcome = run(plan, [prepared], endpoint, progress)
            if outcome.interrupted:
                _tell(outcome, plan.out, progress)
            _note_agreement(asked, plan, name, conditions)


def _note_agreement(asked: Asked, plan: Plan, name: str, conditions: str) -> None:
    own = [
        record
        for record in RecordFile(plan.out)
        if (record.task, record.setting, record.model) == (f"judge:{name}", conditions, plan.label)
    ]
    found = validating.summary(own)
    errors = {system: f"{100 * error:+.1f}" for system, error in found["errors"].items()}
    told = {
        "agreement": round(found["accuracy"], 4),
        "n": found["n"],
        "kappa": None if found["kappa"] is None else round(found["kappa"], 3),
        "on": name,
        "ungraded": found["ungraded"],
        "error_in_points": ", ".join(f"{system} {error}" for system, error in errors.items()),
        "conditions": conditions,
    }
    begin(asked.out, {**provenance(), "judge": _judge_told(plan.label), "judge_validation": told})
    click.echo(
        f"{name}: agreement {told['agreement']:.1%}, kappa {told['kappa']} on {told['n']} labels"
        f" ({told['ungraded']} ungraded); error in points: {told['error_in_points']}"
    )


def _tell(outcome: Outcome, out: Path, progress: Progress) -> None:
    """How a run ended; leaves with 130 when it was interrupted."""
    progress.say(f"{outcome.done} samples done, {outcome.kept} from before, {outcome.failed} failed: {out}")
    if outcome.interrupted:
        progress.say("Interrupted: the same command goes on from here.")
        sys.exit(130)
    if outcome.failed:
        progress.say("The same command asks the failed samples again.")


@contextmanager
def _endpoint(asked: Asked, progress: Progress) -> Iterator[Endpoint]:
    serve = [*(("--config", asked.config) if asked.config else ())]
    serve += [*(("--index", asked.index) if asked.index else ())]
    serve += ["--wikipedia"] if asked.wikipedia else []
    if asked.base_url:
        if serve:
            raise InvalidRequest("--config, --index and --wikipedia are for a proxy that is started here.")
        yield Endpoint(asked.base_url, asked.api_key_env, asked.cache)
        return
    if asked.api_key_env:
        raise InvalidRequest("--api-key-env goes with --base-url.")
    with own_proxy(serve, asked.out / "proxy.log", _keeping(asked)) as endpoint:
        progress.say(f"A proxy listens at {endpoint.base_url}; its log is {asked.out / 'proxy.log'}.")
        yield replace(endpoint, cached=asked.cache)


def _keeping(asked: Asked) -> dict[str, str]:
    """What gives the started proxy a cache, where one is wanted and its configuration has none."""
    configured = load_settings(Path(asked.config) if asked.config else None).cache.kind != "off"
    return {"VERIDICAL_CACHE_KIND": "disk"} if asked.cache and not configured else {}


def _plan(asked: Asked, strategies: Sequence[str], draws: Draws) -> Plan:
    return Plan(
        tasks=asked.tasks,
        model=asked.model or "",
        label=asked.label or "",
        strategies=list(dict.fromkeys(strategies)),
        out=asked.out,
        arguments=dict(map(_argument, asked.arguments)),
        limit=asked.limit,
        shuffle=asked.shuffle,
        seed=asked.seed,
        data=asked.data,
        max_connections=asked.max_connections,
        draws=draws,
        judge=_judge(asked),
    )


def _named(plan: Plan, asked: Asked, endpoint: Endpoint) -> Plan:
    """The plan with a model's name: the first that the endpoint lists where none was given."""
    model = plan.model or _first_model(endpoint)
    return replace(plan, model=model, label=plan.label or _label(model, asked.base_url))


def _first_model(endpoint: Endpoint) -> str:
    return asyncio.run(Client(endpoint.base_url.rstrip("/"), endpoint.key).first_model())


def _label(model: str, url: str | None) -> str:
    """The embedded engine serves whatever file it is given as `local`: the file's name tells more."""
    file = os.environ.get("VERIDICAL_LOCAL_MODEL")
    return Path(file).stem if file and model == "local" and not url else model


def _judge(asked: Asked) -> MakeJudge | None:
    """Makes the judge's model, at the endpoint under test unless it has one of its own."""
    name = asked.judge
    if name is None:
        return None

    def make(endpoint: Endpoint, connections: int) -> Model:
        where = Endpoint(asked.judge_url, asked.judge_key_env) if asked.judge_url else endpoint
        return where.model(name, connections=connections)

    return make


def _argument(word: str) -> tuple[str, Any]:
    """`name=value`; the value is JSON where it parses as JSON, else a string."""
    name, equals, value = word.partition("=")
    if not equals:
        raise InvalidRequest(f"-T takes name=value, not {word!r}.")
    try:
        return name, orjson.loads(value)
    except orjson.JSONDecodeError:
        return name, value


def _only_records_are_kept(out: Path) -> None:
    """inspect_ai's logs hold data-set text: they stay out of a repository that the folder may be in."""
    out.mkdir(parents=True, exist_ok=True)
    ignore = out / ".gitignore"
    if not ignore.exists():
        ignore.write_text("logs/\n*.log\n*.part\n", encoding="utf-8")


def _conditions(asked: Asked, plan: Plan) -> dict[str, Any]:
    own = asked.base_url is None
    local = os.environ.get("VERIDICAL_LOCAL_MODEL") if own else None
    return {
        "model": plan.model,
        "label": plan.label,
        "strategies": plan.strategies,
        "variant": plan.draws.variant,
        "arguments": dict(plan.arguments),
        "limit": plan.limit,
        "shuffle": plan.shuffle,
        "seed": plan.seed,
        "temperature": plan.draws.temperature,
        "draws": plan.draws.n,
        "max_connections": plan.max_connections,
        "endpoint": "a proxy started for the run" if own else asked.base_url,
        "config": file_hash(Path(asked.config)) if asked.config else None,
        "local_model": file_hash(Path(local)) if local else None,
        "judge": _judge_told(asked.judge and _label(asked.judge, asked.judge_url or asked.base_url)),
        "cache": asked.cache,
        "reads_scorer_source": _retrieving(plan.strategies) if asked.oracle_source else [],
    }


def _judge_told(name: str | None) -> dict[str, str] | None:
    """A judge's identity: its model, and one hash over its prompts."""
    if name is None:
        return None
    prompts = [each for each in versions("veridical.evals").values() if each.startswith("judge/")]
    return {"model": name, "prompt_hash": sha256(" ".join(prompts).encode()).hexdigest()[:12]}


def _retrieving(strategies: Sequence[str]) -> list[str]:
    """Those of our strategies that search; what another endpoint calls a strategy is not known here."""
    found = []
    for name in strategies:
        with suppress(VeridicalError):
            found += [name] if strategy_from(name).sources else []
    return found
