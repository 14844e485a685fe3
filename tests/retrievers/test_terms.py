import threading

import pytest

from veridical.retrievers.errors import RetrieverMisconfigured
from veridical.retrievers.terms import Analyzer

pytest.importorskip("Stemmer", reason="needs the extra 'bm25'")


def test_words_are_folded_stopped_and_stemmed() -> None:
    assert Analyzer()("The Discoveries of Beyoncé and S. P. L. Sørensen in 1913") == [
        "discoveri", "beyonc", "p", "l", "sørensen", "1913",
    ]  # fmt: skip


def test_no_and_not_are_kept_since_they_change_a_question() -> None:
    assert Analyzer()("Is it not there? No.") == ["not", "no"]


def test_another_language_has_its_own_stems_and_no_english_stop_words() -> None:
    assert Analyzer("german")("Die Häuser in Wien") == ["die", "haus", "in", "wien"]
    assert Analyzer("")("Running the shops") == ["running", "the", "shops"]


def test_an_unknown_language_is_named() -> None:
    with pytest.raises(RetrieverMisconfigured, match="klingon"):
        Analyzer("klingon")("nuqneH")


def test_one_analyzer_serves_many_threads() -> None:
    analyzer, results = Analyzer(), []

    def work() -> None:
        results.extend(tuple(analyzer("running runners ran relativity theories")) for _ in range(200))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 1600
    assert set(results) == {("run", "runner", "ran", "relat", "theori")}
