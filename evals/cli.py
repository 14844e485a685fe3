"""`veridical eval`: run tasks, list them, and read what came out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import orjson

from veridical.strategies.errors import VeridicalError

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
    """Show our own errors, and a missing extra, as one line and exit with 1."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except VeridicalError as error:
            message = error.message
        except ModuleNotFoundError as missing:
            message = f"evaluations need {missing.name}: pip install 'veridical[evals]'"
        else:
            return
        click.echo(f"veridical: {message}", err=True)
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
    click.option("--cache", is_flag=True, help="Ask no call again that was answered before."),
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


@eval_group.command()
@click.argument("tasks", nargs=-1, required=True)
@click.option(
    "--strategy", "strategies", multiple=True, help="A strategy expression; repeat it. Default: direct."
)
@click.option(
    "--oracle-source", is_flag=True, help="Strategies that retrieve read the pages that the scorer reads."
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
    from veridical.evals.session import Asked, carry_out

    carry_out(Asked(**asked), strategies or ("direct",), Draws(variant=variant))


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
    from veridical.evals.session import Asked, carry_out

    carry_out(Asked(**asked), ("direct",), Draws(n, temperature, POOL))


@eval_group.command()
@out_option
@click.option("--calls", multiple=True, type=click.IntRange(1), help="Calls a question; repeat it.")
@plainly
def controls(out: Path, calls: Sequence[int]) -> None:
    """Vote over a pool: self_consistency at the calls of each other strategy, or at --calls."""
    from veridical.evals.pool import add_controls

    for line in add_controls(out, calls):
        click.echo(line)


@eval_group.group()
def judge() -> None:
    """Measure a judge before anything is graded by it."""


@judge.command()
@click.option(
    "--on", "sets", multiple=True, help="factscore, halueval or truthfulqa; default: the first two."
)
@click.option("--n", default=150, show_default=True, type=click.IntRange(10), help="Labels of each set.")
@click.option("--passages", default=5, show_default=True, help="Passages shown with a fact of factscore.")
@click.option("--passage-tokens", default=256, show_default=True, help="Length of each.")
@out_option
@data_option
@endpoint_options
@click.option("--seed", default=0, show_default=True, help="For the choice of labels.")
@click.option("--max-connections", default=4, show_default=True, type=click.IntRange(1), help="At once.")
@plainly
def validate(sets: Sequence[str], n: int, passages: int, passage_tokens: int, **asked: Any) -> None:
    """Ask the judge (--model) for labels that people gave, and print how far it agrees."""
    from veridical.evals import session

    given = session.Asked(tasks=(), limit=None, shuffle=False, arguments=(), **asked)
    shown = {"passages": passages, "passage_tokens": passage_tokens}
    session.validate(given, sets or ("factscore", "halueval"), n, shown)


@eval_group.command("factscore-labels")
@data_option
@plainly
def factscore_labels(data: str | None) -> None:
    """Recompute the human FActScore of the three labelled systems."""
    from veridical.evals.labels import human_scores

    click.echo("system         FActScore  responded  facts per response")
    for each in human_scores(data):
        share = f"{each.responses}/{each.entities}"
        click.echo(f"{each.system:<14} {100 * each.score:8.1f}  {share:>9}  {each.facts:18.1f}")


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
