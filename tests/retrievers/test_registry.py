from importlib.metadata import EntryPoint

import pytest

from veridical.retrievers import registry
from veridical.retrievers.base import Retriever
from veridical.retrievers.errors import RetrieverMisconfigured
from veridical.retrievers.testing import FakeRetriever


def plug_in(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    point = EntryPoint(name, value, registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])


@pytest.mark.parametrize("name", sorted(registry.RETRIEVERS))
def test_every_name_leads_to_a_retriever_that_bears_it(name: str) -> None:
    found = registry.retriever_class(name)
    assert issubclass(found, Retriever)
    assert found.model_fields["name"].default == name


def test_a_near_miss_is_told() -> None:
    with pytest.raises(RetrieverMisconfigured, match=r"no retriever 'wikipedai'\. Did you mean 'wikipedia'"):
        registry.retriever_class("wikipedai")


def test_plug_ins_are_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, "fake", "veridical.retrievers.testing:FakeRetriever")
    assert registry.retriever_class("fake") is FakeRetriever


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("bm25", "x:Y", "takes the name 'bm25', which is ours"),
        ("mine", "nowhere.at_all:Y", "cannot be loaded"),
        ("mine", "json:dumps", "is no Retriever"),
    ],
)
def test_a_bad_plug_in_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    plug_in(monkeypatch, name, value)
    with pytest.raises(RetrieverMisconfigured, match=message):
        registry.retriever_class(name)
