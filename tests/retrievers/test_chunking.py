import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veridical.retrievers.chunking import Chunker, sentences

#: Words, sentence ends, abbreviations, blank lines, CJK, emoji and very long words in any order.
PIECES = st.sampled_from(
    [
        "The",
        "cat",
        "Dr.",
        "e.g.",
        "sat.",
        "Why?",
        "No!",
        '"Yes."',
        "3.14",
        "\n\n",
        "\n",
        " ",
        "\t",
        "北京。",
        "x" * 90,
        "🙂",
        "J.",
    ]
)
TEXTS = st.lists(PIECES, max_size=120).map(" ".join) | st.text(max_size=400)


def texts_of(text: str) -> list[str]:
    return [span.of(text) for span in sentences(text)]


def bare(text: str) -> str:
    return re.sub(r"\s", "", text)


def test_sentences_end_at_stops_questions_and_blank_lines() -> None:
    text = "One is here. Two? Yes! A title\n\nThe last one"
    assert texts_of(text) == ["One is here.", "Two?", "Yes!", "A title", "The last one"]


@pytest.mark.parametrize(
    "text",
    [
        "Dr. Smith met S. P. L. Sørensen in St. Louis.",
        "It cost approx. 3.5 million (e.g. in 1999).",
        "He moved to the U.S. in 1920.",
        "The show aired at 9 p.m. on Monday.",
    ],
)
def test_abbreviations_and_initials_do_not_end_a_sentence(text: str) -> None:
    assert texts_of(text) == [text]


def test_chinese_sentences_need_no_spaces() -> None:
    assert texts_of("北京是首都。上海很大！好吗？") == ["北京是首都。", "上海很大！", "好吗？"]


def test_a_short_text_is_one_passage_as_it_stands() -> None:
    assert Chunker()("  Short.  Two sentences. ") == ["Short.  Two sentences."]


def test_passages_share_their_border_sentence() -> None:
    text = "Alpha one. Beta two. Gamma three. Delta four. Epsilon five."
    assert Chunker(max_chars=36, overlap=1)(text) == [
        "Alpha one. Beta two. Gamma three.",
        "Gamma three. Delta four.",
        "Delta four. Epsilon five.",
    ]


def test_without_overlap_each_sentence_is_given_once() -> None:
    text = "Alpha one. Beta two. Gamma three. Delta four."
    assert Chunker(max_chars=22, overlap=0)(text) == ["Alpha one. Beta two.", "Gamma three.", "Delta four."]


@pytest.mark.parametrize("chosen", [{"max_chars": 0}, {"overlap": -1}])
def test_impossible_settings_are_refused(chosen: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="max_chars"):
        Chunker(**chosen)


@settings(deadline=None)
@given(TEXTS)
def test_every_visible_character_is_in_exactly_one_sentence(text: str) -> None:
    assert "".join(map(bare, texts_of(text))) == bare(text)


@settings(deadline=None)
@given(TEXTS, st.integers(1, 80), st.integers(0, 3))
def test_passages_fit_cover_the_text_and_advance(text: str, max_chars: int, overlap: int) -> None:
    spans = Chunker(max_chars, overlap).spans(text)
    assert all(0 < span.end - span.start <= max_chars for span in spans)
    covered = {i for span in spans for i in range(span.start, span.end)}
    assert all(text[i].isspace() or i in covered for i in range(len(text)))
    for before, after in pairwise(spans):
        assert before.start < after.start
        assert before.end < after.end  # each passage says something new


@settings(deadline=None)
@given(TEXTS, st.integers(20, 80))
def test_without_overlap_nothing_is_said_twice(text: str, max_chars: int) -> None:
    assert "".join(map(bare, Chunker(max_chars, 0)(text))) == bare(text)
