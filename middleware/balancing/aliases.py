"""Models of our own: pools of the servers of several backends."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from veridical.middleware.balancing.pool import Pool, Target
from veridical.middleware.balancing.settings import ModelSettings
from veridical.middleware.routing import Mounted, balanced
from veridical.strategies.errors import ConfigError, shown, suggestion


def several(models: Mapping[str, ModelSettings], backends: Collection[str]) -> frozenset[str]:
    """The backends that stand in for one another in some model of ours.

    Raises:
        ConfigError: a model's name is a backend's, or a target names no backend.
    """
    found: set[str] = set()
    for name, model in models.items():
        if name in backends:
            raise ConfigError(f"models.{name}: a backend has this name.")
        found |= {_place(name, each, backends)[0] for each in (*model.targets, *model.fallback)}
    return frozenset(found)


def alias(name: str, settings: ModelSettings, mounted: Mapping[str, Mounted]) -> Mounted:
    """A model of our own. Each target's weight is shared out among its backend's servers.

    Raises:
        ConfigError: a target is a model that its backend does not serve.
    """
    weights = settings.weights or (1.0,) * len(settings.targets)
    first = [
        target
        for text, weight in zip(settings.targets, weights, strict=True)
        for target in _targets(name, text, weight, mounted)
    ]
    fallback = [_targets(name, text, 1.0, mounted) for text in settings.fallback]
    wait = min(target.replica.capacity.queue_wait_s for target in first)
    pool = Pool(name, [first, *fallback], settings.balance, settings.affinity, wait)
    return balanced(pool, {name: name})


def _targets(name: str, text: str, weight: float, mounted: Mapping[str, Mounted]) -> Sequence[Target]:
    backend, model = _place(name, text, mounted)
    place = mounted[backend]
    assert place.pool is not None  # noqa: S101 - `several` has named it
    if place.names is not None and model not in place.names:
        near = suggestion(model, place.names)
        raise ConfigError(f"models.{name}: the backend {backend!r} serves no {shown(model)}.{near}")
    whole = sum(each.weight for each in place.pool.targets)
    return [
        Target(each.replica, weight * each.weight / whole, place.upstream(model))
        for each in place.pool.targets
    ]


def _place(name: str, text: str, backends: Collection[str]) -> tuple[str, str]:
    """The backend and the model of a target; of two backends that fit, the one with the longer name."""
    found = max((each for each in backends if text.startswith(f"{each}/")), key=len, default=None)
    if found is None:
        near = suggestion(text.partition("/")[0], backends)
        raise ConfigError(f"models.{name}: {shown(text)} is no BACKEND/MODEL of a configured backend.{near}")
    return found, text[len(found) + 1 :]
