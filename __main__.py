"""The command line: `veridical serve`, `ask`, `strategies`, `index`, `keys`, `eval` and others."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, get_args, get_origin, get_type_hints

import click

from veridical.middleware.access.commands import keys as keys_group
from veridical.strategies.errors import VeridicalError

# What only some commands need is imported by them: a command line should not take a second to say --help.
if TYPE_CHECKING:
    from veridical.middleware.config import Settings
    from veridical.strategies.base import Strategy

P = ParamSpec("P")
DEFAULT_URL = "http://127.0.0.1:8000/v1"


def _plainly(command: Callable[P, None]) -> Callable[P, None]:
    """Show our own errors as one line and exit with 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except VeridicalError as error:
            click.echo(f"veridical: {error.message}", err=True)
            sys.exit(1)

    return run


class _WithEvals(click.Group):
    """Our commands, and `eval`, whose libraries are imported only when it is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return sorted([*super().list_commands(ctx), "eval"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name."""
        if cmd_name != "eval":
            return super().get_command(ctx, cmd_name)
        from veridical.evals.cli import eval_group

        return eval_group


@click.group(cls=_WithEvals, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="veridical")
def main() -> None:
    """An OpenAI-compatible proxy that makes any model check its facts before it answers."""


config_option = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="VERIDICAL_CONFIG",
    help="Configuration file; default: veridical.toml in this folder, if it is there.",
)


@main.command()
@config_option
@click.option("--base-url", help="Serve every model of this OpenAI-compatible server; needs no file.")
@click.option("--api-key-env", metavar="NAME", help="Environment variable with that server's key.")
@click.option("--index", help="Folder of an index: evidence for rag and cove(execute_with=retrieval).")
@click.option(
    "--wikipedia", is_flag=True, help="Live Wikipedia as a source of evidence; with --index, both fused."
)
@click.option("--keys", is_flag=True, help="Let in only the keys of `veridical keys`.")
@click.option("--insecure", is_flag=True, help="Listen on another address than loopback without keys.")
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on.")
@click.option("--workers", type=click.IntRange(1), help="Processes that serve.")
@click.option("--as-worker", hidden=True)
@_plainly
def serve(
    config: Path | None,
    base_url: str | None,
    api_key_env: str | None,
    index: str | None,
    wikipedia: bool,
    keys: bool,
    insecure: bool,
    host: str | None,
    port: int | None,
    workers: int | None,
    as_worker: str | None,
) -> None:
    """Start the proxy; without a file or a --base-url it serves the embedded model `local`."""
    gc.disable()  # imports make many objects and little garbage; `serve` turns it on again
    from veridical.middleware.config import load_settings

    server = {"host": host, "port": port, "workers": workers, "insecure": insecure or None}
    overrides: dict[str, Any] = {"server": {k: v for k, v in server.items() if v is not None}}
    if keys:
        overrides["auth"] = {"keys": True}
    if base_url:
        upstream = {"type": "http", "base_url": base_url, "api_key_env": api_key_env}
        overrides["backends"] = {"upstream": upstream}
    elif api_key_env:
        raise click.UsageError("--api-key-env goes with --base-url.")
    retrievers: dict[str, Any] = {"index": {"type": "index", "path": index}} if index else {}
    if wikipedia:
        retrievers["wikipedia"] = {"type": "wikipedia"}
    if retrievers:
        overrides["retrievers"] = retrievers
    _serve(partial(load_settings, config, overrides=overrides), as_worker)


def _serve(read: Callable[[], Settings], as_worker: str | None) -> None:
    settings = read()
    if as_worker is None and settings.server.workers > 1:
        from veridical.middleware.workers.serving import serve_workers, worker_command

        if not serve_workers(settings, worker_command):
            sys.exit(1)
        return
    from veridical.middleware.workers.worker import Worker
    from veridical.server import serve as run

    run(settings, read, Worker.inherited(as_worker) if as_worker else None)


@main.command("check-config")
@config_option
@_plainly
def check_config(config: Path | None) -> None:
    """Read the configuration as `serve` would, build everything, and say what it means."""
    from veridical.middleware.assembly import Assembly
    from veridical.middleware.checking import faults, warnings
    from veridical.middleware.config import load_settings
    from veridical.server import check_exposure
    from veridical.strategies.registry import loaded_plugins

    settings = load_settings(config)
    check_exposure(settings)
    assembly = Assembly(settings)
    assembly.prepare()
    if settings.roles:
        from veridical.server import check_roles

        asyncio.run(check_roles(settings))
    for name, backend in settings.backends.items():
        click.echo(f"backend {name}: {backend.type}")
    for name, model in settings.models.items():
        click.echo(
            f"model {name}: {', '.join(model.targets)}" + "".join(f", else {m}" for m in model.fallback)
        )
    for name, retriever in settings.retrievers.items():
        parts = f" of {', '.join(retriever.parts)}" if retriever.parts else ""
        click.echo(f"source {name}: {retriever.type}{parts}")
    if assembly.sources:
        click.echo(f"default source: {assembly.sources['default'].name}")
    for name, expression in settings.pipelines.items():
        click.echo(f"pipeline {name}: {expression}")
    for role, wanted in settings.roles.items():
        click.echo(f"role {role}: {wanted}")
    click.echo(f"default strategy: {settings.default_strategy}")
    click.echo(f"advertised: {', '.join(assembly.advertised) or 'none'}")
    click.echo(f"keys: {'required' if settings.auth.required else 'none needed'}")
    click.echo(f"listens on {settings.server.host}:{settings.server.port}")
    for warning in (*warnings(settings), *loaded_plugins()[1]):
        click.echo(f"warning: {warning}", err=True)
    if found := faults(settings):
        raise VeridicalError("; ".join(found))
    click.echo("The configuration is sound.")


@main.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), default=Path("veridical.toml"))
@click.option("--force", is_flag=True, help="Overwrite the file if it is there.")
@_plainly
def init(output: Path, force: bool) -> None:
    """Write a commented configuration with every setting and its default."""
    from veridical.middleware.config_template import config_template

    if output.exists() and not force:
        raise VeridicalError(f"{output} is there already; --force overwrites it.")
    output.write_text(config_template(), encoding="utf-8")
    click.echo(f"Wrote {output}. Start with: veridical serve --config {output}")


def described(cls: type[Strategy]) -> dict[str, Any]:
    """A strategy's name, options, paper, calls and depth."""
    hints = get_type_hints(cls, include_extras=True)
    options = []
    for option in fields(cls):
        base, *notes = get_args(hints[option.name]) or (hints[option.name],)
        options.append(
            {
                "name": option.name,
                "default": None if option.default is MISSING else option.default,
                "choices": _choices(base),
                "description": next((note.description for note in notes if hasattr(note, "description")), ""),
            }
        )
    return {"name": cls.name, "options": options, "paper": cls.paper, "calls": cls.calls, "depth": cls.depth}


def _choices(kind: Any) -> list[Any] | None:
    """The values that a Literal allows, alone or beside None."""
    literals = [each for each in (kind, *get_args(kind)) if get_origin(each) is Literal]
    found = [value for literal in literals for value in get_args(literal)]
    return [*found, *([None] if type(None) in get_args(kind) else [])] if found else None


@main.command()
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON array of {name, options, paper, calls, depth}."
)
@_plainly
def strategies(as_json: bool) -> None:
    """List the strategies with their options, cost and paper."""
    from veridical.strategies.registry import BUILT_IN, loaded_plugins, strategy_class

    others, broken = loaded_plugins()
    found = [described(cls) for cls in (*map(strategy_class, BUILT_IN), *others.values())]
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _show_strategies(found)
    for message in broken:
        click.echo(f"veridical: {message}", err=True)


def _show_strategies(found: list[dict[str, Any]]) -> None:
    for each in found:
        click.secho(each["name"], bold=True)
        click.echo(f"  {each['paper']}\n  calls: {each['calls']}\n  depth: {each['depth']}")
        for option in each["options"]:
            choices = f" ({' | '.join(map(str, option['choices']))})" if option["choices"] else ""
            click.echo(f"  {option['name']}={option['default']}{choices}: {option['description']}")


for _command in keys_group.commands.values():
    assert _command.callback is not None  # noqa: S101 - each is made from a function
    _command.callback = _plainly(_command.callback)
main.add_command(keys_group)


@main.group()
def index() -> None:
    """Build, search and describe a local index of passages."""


@index.command()
@click.option(
    "--input", "corpus", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="The index's folder."
)
@click.option("--bm25/--no-bm25", default=True, help="Index the words.")
@click.option("--dense", metavar="MODEL", help="Index the meaning, with a sentence-transformers model.")
@_plainly
def build(corpus: Path, out: Path, bm25: bool, dense: str | None) -> None:
    """Index a JSON Lines file (plain or gzip) of {id?, title?, text, url?}; resumes where it was stopped."""
    from rich.console import Console
    from rich.progress import Progress

    from veridical.retrievers.index import build as run

    with Progress(console=Console(stderr=True)) as bars, _retriever_errors():
        tasks: dict[str, Any] = {}

        def show(at: Any) -> None:
            if at.stage not in tasks:
                tasks[at.stage] = bars.add_task(at.stage)
            bars.update(tasks[at.stage], completed=at.done, total=at.total)

        made = run(corpus, out, bm25=bm25, dense_model=dense, progress=show)
    click.echo(
        f"{made.passages} passages of {made.documents} documents in {out} ({made.size / 2**20:.1f} MB)"
    )


@index.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("query")
@click.option("-k", default=5, show_default=True, type=click.IntRange(1, 1000), help="Passages to show.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: rank, score, id, title, text.")
@_plainly
def search(folder: Path, query: str, k: int, as_json: bool) -> None:
    """Show the passages of an index that fit a query best."""
    from veridical.retrievers.index import search as run

    with _retriever_errors():
        hits = run(folder, query, k)
    for rank, found in enumerate(hits, 1):
        of = found.metadata
        row = {"rank": rank, "score": of["score"], "id": of["source"], "title": of["title"]}
        if as_json:
            click.echo(json.dumps({**row, "text": found.page_content}, ensure_ascii=False))
        else:
            click.echo(f"{rank}. {row['title'] or row['id']} ({row['score']:.2f})\n   {found.page_content}")


@index.command("info")
@click.argument("folder", type=click.Path(path_type=Path))
@_plainly
def index_info(folder: Path) -> None:
    """Say what an index holds."""
    from veridical.retrievers.index import info as run

    with _retriever_errors():
        found = run(folder)
    for name in ("documents", "passages", "size", "fingerprint", "chunking", "bm25", "dense"):
        click.echo(f"{name}: {getattr(found, name)}")


@contextmanager
def _retriever_errors() -> Iterator[None]:
    """Turn the retrievers' own errors into ours."""
    from veridical.retrievers.errors import RetrieverError

    try:
        yield
    except RetrieverError as error:
        raise VeridicalError(error.message) from error


@main.command()
@click.argument("question")
@click.option("--strategy", help="Strategy expression, such as cove(variant=factored).")
@click.option("--model", help="Model; default: the first that the server lists.")
@click.option("--url", envvar="VERIDICAL_BASE_URL", default=DEFAULT_URL, show_default=True, help="API root.")
@click.option(
    "--trace", type=click.Choice(["summary", "full"]), default="summary", help="full adds every step."
)
@_plainly
def ask(question: str, strategy: str | None, model: str | None, url: str, trace: str) -> None:
    """Ask a running proxy; shows the steps, the answer, the claims with verdicts and the cost."""
    from veridical.middleware.client import Client, api_root

    client = Client(api_root(url), os.environ.get("VERIDICAL_API_KEY"))
    asyncio.run(_ask(client, question, model, strategy, trace))


async def _ask(client: Any, question: str, model: str | None, strategy: str | None, trace: str) -> None:
    from rich.console import Console

    screen, progress = Console(), Console(stderr=True)
    model = model or await client.first_model()
    trail: dict[str, Any] = {}
    usage: dict[str, Any] = {}
    with progress.status(f"Asking {model} …") as status:
        async for piece in client.ask(question, model, strategy, trace):
            if piece.step:
                progress.print(piece.step.strip(), style="dim", markup=False)
                status.update(piece.step.strip().replace("[", "\\["))
            if piece.text:
                status.stop()
                screen.print(piece.text, end="", markup=False, highlight=False)
            trail, usage = piece.trail or trail, piece.usage or usage
    screen.print()
    _show_trail(screen, trail, usage)
    if trace == "full":
        screen.print_json(data=trail.get("steps", []))


def _show_trail(screen: Any, trail: dict[str, Any], usage: dict[str, Any]) -> None:
    from rich.table import Table

    if claims := trail.get("claims"):
        table = Table("claim", "verdict", "question", "answer", title="Checks")
        for claim in claims:
            cells = (
                claim["text"],
                claim["verdict"] or "-",
                claim["question"] or "",
                claim["answer"] or "(none)",
            )
            table.add_row(*(cell.replace("[", "\\[") for cell in cells))
        screen.print(table)
    for note in trail.get("notes", ()):
        screen.print(f"note: {note}", markup=False)
    tokens = f"{usage.get('prompt_tokens', 0)} + {usage.get('completion_tokens', 0)} tokens"
    calls = f"{trail.get('calls', '?')} calls (depth {trail.get('depth', '?')})"
    cost = f"{calls}, {tokens}, {trail.get('seconds', '?')} s"
    screen.print(f"{trail.get('strategy', '?')}: {trail.get('status', '?')} · {cost}", markup=False)


if __name__ == "__main__":
    main()
