"""`veridical keys`: make, list and revoke client keys, in the state database of the configuration."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

T = TypeVar("T")
_UNITS = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


class Moment(click.ParamType[int]):
    """A time to come: a span such as 12h, 90d or 4w from now, or a day or moment of ISO 8601 (UTC)."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Seconds since 1970."""
        if isinstance(value, int):
            return value
        if span := re.fullmatch(r"(\d{1,6})([mhdw])", value):
            return int(time.time()) + int(span[1]) * _UNITS[span[2]]
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            self.fail("say 90d, 12h, 2027-01-31 or 2027-01-31T12:00", param, ctx)
        moment = int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
        if moment <= time.time():
            self.fail("this is in the past", param, ctx)
        return moment


limit = click.IntRange(min=1)
config_option = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="VERIDICAL_CONFIG",
    help="Configuration file, which says where the state is kept.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="As JSON.")


@click.group()
def keys() -> None:
    """Make, list and revoke the keys of clients; `veridical serve --keys` then lets in only these."""


@keys.command()
@config_option
@json_option
@click.option("--name", required=True, help="Whose it is; shown in lists and in usage.")
@click.option("--model", "models", multiple=True, metavar="PATTERN", help="Model it may use; default: all.")
@click.option("--strategy", "strategies", multiple=True, metavar="PATTERN", help="Strategy; default: all.")
@click.option("--requests-per-minute", type=limit, help="Requests that it may make in a minute.")
@click.option("--tokens-per-minute", type=limit, help="Tokens, prompt and completion, of all backend calls.")
@click.option("--tokens-per-month", type=limit, help="Tokens in a calendar month (UTC).")
@click.option("--expires", "expires_at", type=Moment(), help="When it ends: 90d, 12h or 2027-01-31.")
@click.option("--admin", is_flag=True, help="It sees the usage of every key.")
def create(config: Path | None, as_json: bool, **rights: Any) -> None:
    """Make a key. It is shown this once: only a hash of it is kept."""
    from veridical.middleware.access.keys import ApiKey, made

    text, key = made(ApiKey(id="", digest="", **rights))
    _with_store(config, lambda store: store.add(key))
    if as_json:
        click.echo(json.dumps({"key": text, **_shown(key)}, ensure_ascii=False))
        return
    click.echo(text)
    click.echo(f"Key {key.id} for {key.name}. Keep it: it cannot be shown again.", err=True)


@keys.command("list")
@config_option
@json_option
def list_(config: Path | None, as_json: bool) -> None:
    """List the keys: what they may do, never what they are."""
    found = _with_store(config, lambda store: store.all())
    if as_json:
        click.echo(json.dumps([_shown(key) for key in found], ensure_ascii=False, indent=2))
    else:
        _table([_shown(key) for key in found])


@keys.command()
@config_option
@click.argument("key_id", metavar="ID")
def revoke(config: Path | None, key_id: str) -> None:
    """End a key, given by its ID (the part between the underscores)."""
    key = _with_store(config, lambda store: store.revoke(key_id))
    click.echo(
        f"Key {key.id} of {key.name} is revoked. Running servers notice within auth.refresh_s seconds."
    )


def _with_store(config: Path | None, work: Callable[[Any], Awaitable[T]]) -> T:
    """Do something with the keys of the configured database."""
    from veridical.middleware.access.key_store import KeyStore
    from veridical.middleware.config import load_settings
    from veridical.middleware.state.choosing import database_of

    database = database_of(load_settings(config).state)

    async def run() -> T:
        await database.open()
        try:
            return await work(KeyStore(database))
        finally:
            await database.close()

    return asyncio.run(run())


def _shown(key: Any) -> dict[str, Any]:
    """A key as lists show it."""
    found = {name: value for name, value in asdict(key).items() if name != "digest"}
    for moment in ("created_at", "expires_at", "revoked_at"):
        if found[moment] is not None:
            found[moment] = datetime.fromtimestamp(found[moment], UTC).isoformat().replace("+00:00", "Z")
    fault = key.fault(time.time())
    state = "revoked" if key.revoked_at is not None else "expired" if fault else "active"
    return {**found, "state": state}


def _table(found: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("id", "name", "state", "models", "strategies", "limits", "expires")
    for column in table.columns:
        column.overflow = "fold"  # nothing is cut
    table.columns[0].min_width = 8  # it is what `revoke` wants
    for each in found:
        may = [", ".join(each[name]) or "all" for name in ("models", "strategies")]
        row = (each["id"], each["name"], each["state"], *may, _limits(each), each["expires_at"] or "-")
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    Console().print(table)


def _limits(key: dict[str, Any]) -> str:
    units = {
        "requests_per_minute": "req/min",
        "tokens_per_minute": "tok/min",
        "tokens_per_month": "tok/month",
    }
    return "\n".join(f"{key[name]} {unit}" for name, unit in units.items() if key[name] is not None) or "none"
