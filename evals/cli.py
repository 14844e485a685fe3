"""`veridical eval`: run tasks, list them, and read what came out."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import orjson

from veridical.strategies.errors import InvalidRequest, VeridicalError

#: Commands that live in modules of their own, imported when they are named.
_ELSEWHERE = {"report": "veridical.evals.report_cli", "compare": "veridical.evals.report_cli"}


class _Lazy(click.Group):
    """A group whose further commands are imported only when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Ours, and those elsewhere that are there."""
        there = [name for name, module in _ELSEWHERE.items() if find_spec(module)]
        return sorted([*super().list_commands(ctx), *there])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name."""
        module = _ELSEWHERE.get(cmd_name)
        if module and find_spec(module):
            found: click.Command = getattr(import_module(module), cmd_name)
            return found
        return super().get_command(ctx, cmd_name)


@click.group("eval", cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
def eval_group() -> None:
    """Measure any OpenAI-compatible endpoint with the data sets' official metrics."""


def plainly(command: Callable[..., None]) -> Callable[..., None]:
    """Show our own errors as one line and exit with 1."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except VeridicalError as error:
            click.echo(f"veridical: {error.message}", err=True)
            sys.exit(1)

    return run


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


FOLDER = click.Path(file_okay=False, path_type=Path)
data_option = click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False),
    envvar="VERIDICAL_DATA",
    help="Folder with the data sets' files; without it they are loaded from the hub.",
)
out_option = click.option("--out", type=FOLDER, required=True, help="Folder for records.jsonl and run.json.")
endpoint_options = _options(
    click.option("--model", help="Model to ask for; default: the first that the endpoint lists."),
    click.option("--label", help="The model's name in the records; default: --model."),
    click.option("--base-url", help="API root of a running endpoint; without it a proxy is started."),
    click.option("--api-key-env", metavar="NAME", help="Variable with the endpoint's key."),
    click.option(
        "--config", type=click.Path(exists=True, dir_okay=False), help="For the started proxy: configuration."
    ),
    click.option("--index", type=click.Path(exists=True), help="For the started proxy: an index's folder."),
    click.option("--wikipedia", is_flag=True, help="For the started proxy: live Wikipedia."),
)
choice_options = _options(
    click.option("--limit", type=click.IntRange(1), help="Only the first N questions."),
    click.option("--shuffle", is_flag=True, help="Order the questions by --seed before --limit."),
    click.option("--seed", default=0, show_default=True, help="For draws, orders and choices."),
    click.option("--max-connections", default=4, show_default=True, type=click.IntRange(1), help="At once."),
    click.option(
        "-T", "arguments", multiple=True, metavar="NAME=VALUE", help="A task's parameter; see `list`."
    ),
)
judge_options = _options(
    click.option("--judge", metavar="MODEL", help="Model that judges, for the tasks that need one."),
    click.option("--judge-url", help="Its API root; default: the endpoint's."),
    click.option("--judge-key-env", metavar="NAME", help="Variable with its key."),
)


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


@eval_group.command()
@click.argument("tasks", nargs=-1, required=True)
@click.option(
    "--strategy", "strategies", multiple=True, help="A strategy expression; repeat it. Default: direct."
)
@click.option("--variant", default="", help="Tells apart runs of one strategy under other conditions.")
@out_option
@data_option
@endpoint_options
@choice_options
@judge_options
@plainly
def run(strategies: Sequence[str], variant: str, **asked: Any) -> None:
    """Run every TASK under every strategy; a second run goes on where the first was stopped."""
    from veridical.evals.running import Draws

    _carry_out(Asked(**asked), strategies or ("direct",), Draws(variant=variant))


@eval_group.command()
@click.argument("tasks", nargs=-1, required=True)
@click.option("--n", default=16, show_default=True, type=click.IntRange(2), help="Draws of each question.")
@click.option("--temperature", default=0.7, show_default=True, type=float)
@out_option
@data_option
@endpoint_options
@choice_options
@plainly
def pool(n: int, temperature: float, **asked: Any) -> None:
    """Draw N direct answers to each question, from which `controls` makes every equal-calls control."""
    from veridical.evals.pool import POOL
    from veridical.evals.running import Draws

    _carry_out(Asked(**asked), ("direct",), Draws(n, temperature, POOL))


@eval_group.command()
@out_option
@click.option("--calls", multiple=True, type=click.IntRange(1), help="Calls a question; repeat it.")
@plainly
def controls(out: Path, calls: Sequence[int]) -> None:
    """Vote over a pool: self_consistency at the calls of each other strategy, or at --calls."""
    from veridical.evals.pool import add_controls

    for line in add_controls(out, calls):
        click.echo(line)


@eval_group.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@plainly
def list_tasks(as_json: bool) -> None:
    """List the tasks, their parameters and the files that they read."""
    from veridical.evals.catalogue import TASKS, entry

    found = [entry(name).described() for name in TASKS]
    if as_json:
        click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    for each in found:
        click.secho(each["name"], bold=True)
        click.echo(f"  {each['summary']}\n  file: {' or '.join(each['files'])}\n  hub: {each['hub']}")
        for name, default in each["parameters"].items():
            choices = f" ({' | '.join(each['choices'][name])})" if name in each["choices"] else ""
            click.echo(f"  -T {name}={default}{choices}")


def _carry_out(asked: Asked, strategies: Sequence[str], draws: Any) -> None:
    """Run the plan on the endpoint, note how, and say how it ended (exit 130 when interrupted)."""
    from veridical.evals.progress import Progress
    from veridical.evals.provenance import begin, finish, provenance
    from veridical.evals.running import prepare, run

    progress = Progress()
    with _endpoint(asked, progress) as endpoint:
        plan = _plan(asked, strategies, draws, endpoint)
        prepared = [prepare(plan, name) for name in plan.tasks]
        _only_records_are_kept(asked.out)
        tasks = [each.described for each in prepared]
        number = begin(asked.out, {**provenance(), **_conditions(asked, plan), "tasks": tasks})
        outcome = run(plan, prepared, endpoint, progress)
        finish(asked.out, number, done=outcome.done, failed=outcome.failed, interrupted=outcome.interrupted)
    progress.say(
        f"{outcome.done} samples done, {outcome.kept} from before, {outcome.failed} failed: {asked.out}"
    )
    if outcome.interrupted:
        progress.say("Interrupted: the same command goes on from here.")
        sys.exit(130)
    if outcome.failed:
        progress.say("The same command asks the failed samples again.")


@contextmanager
def _endpoint(asked: Asked, progress: Any) -> Iterator[Any]:
    from veridical.evals.endpoint import Endpoint, own_proxy

    serve = [*(("--config", asked.config) if asked.config else ())]
    serve += [*(("--index", asked.index) if asked.index else ())]
    serve += ["--wikipedia"] if asked.wikipedia else []
    if asked.base_url:
        if serve:
            raise InvalidRequest("--config, --index and --wikipedia are for a proxy that is started here.")
        yield Endpoint(asked.base_url, asked.api_key_env)
        return
    if asked.api_key_env:
        raise InvalidRequest("--api-key-env goes with --base-url.")
    with own_proxy(serve, asked.out / "proxy.log") as endpoint:
        progress.say(f"A proxy listens at {endpoint.base_url}; its log is {asked.out / 'proxy.log'}.")
        yield endpoint


def _plan(asked: Asked, strategies: Sequence[str], draws: Any, endpoint: Any) -> Any:
    from veridical.evals.running import Plan

    model = asked.model or _first_model(endpoint)
    return Plan(
        tasks=asked.tasks,
        model=model,
        label=asked.label or _label(model, asked),
        strategies=list(dict.fromkeys(strategies)),
        out=asked.out,
        arguments=dict(map(_argument, asked.arguments)),
        limit=asked.limit,
        shuffle=asked.shuffle,
        seed=asked.seed,
        data=asked.data,
        max_connections=asked.max_connections,
        draws=draws,
        judge=_judge(asked, endpoint),
    )


def _first_model(endpoint: Any) -> str:
    from veridical.middleware.client import Client

    return asyncio.run(Client(endpoint.base_url.rstrip("/"), endpoint.key).first_model())


def _label(model: str, asked: Asked) -> str:
    """The embedded engine serves whatever file it is given as `local`: the file's name tells more."""
    file = os.environ.get("VERIDICAL_LOCAL_MODEL")
    return Path(file).stem if file and model == "local" and not asked.base_url else model


def _judge(asked: Asked, endpoint: Any) -> Any:
    """Makes the judge's model for a number of connections; None where none is named."""
    name = asked.judge
    if name is None:
        return None
    where = replace(
        endpoint,
        base_url=asked.judge_url or endpoint.base_url,
        api_key_env=asked.judge_key_env or endpoint.api_key_env,
    )
    return lambda connections: where.model(name, connections=connections)


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


def _conditions(asked: Asked, plan: Any) -> dict[str, Any]:
    from veridical.evals.provenance import file_hash

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
        "judge": asked.judge,
    }
