import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from veridical.retrievers import index
from veridical.retrievers.bm25 import BM25Index
from veridical.retrievers.chunking import Chunker
from veridical.retrievers.errors import (
    CorpusInvalid,
    IndexBusy,
    IndexCorrupt,
    IndexMismatch,
    IndexMissing,
    RetrieverMisconfigured,
)
from veridical.retrievers.index import Progress
from veridical.retrievers.testing import PAGES, write_jsonl

pytest.importorskip("bm25s", reason="needs the extra 'bm25'")


def ids(folder: Path, query: str) -> list[str]:
    return [doc.metadata["source"] for doc in index.search(folder, query)]


def generation(folder: Path) -> Path:
    return folder / json.loads((folder / "index.json").read_text())["generation"]


def test_build_search_and_info(corpus: Path, tmp_path: Path) -> None:
    steps: list[Progress] = []
    built = index.build(corpus, tmp_path / "index", progress=steps.append)
    assert ids(tmp_path / "index", "atomic number 84")[0] == "polonium"
    assert index.info(tmp_path / "index") == built
    assert (built.documents, built.passages, built.dense) == (10, 10, None)
    assert built.size == sum(
        p.stat().st_size for p in generation(tmp_path / "index").rglob("*") if p.is_file()
    )
    assert [step.stage for step in steps if step.done == step.total] == ["read", "bm25", "publish"]
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == sorted(
        ["index.json", generation(tmp_path / "index").name]
    )


def test_gzip_gives_the_same_content_as_plain(corpus: Path, tmp_path: Path) -> None:
    zipped = tmp_path / "corpus.jsonl.gz"
    zipped.write_bytes(gzip.compress(corpus.read_bytes()))
    plain, packed = index.build(corpus, tmp_path / "a"), index.build(zipped, tmp_path / "b")
    assert plain.fingerprint == packed.fingerprint


def test_the_fingerprint_names_the_content(corpus: Path, tmp_path: Path) -> None:
    first = index.build(corpus, tmp_path / "a").fingerprint
    assert index.build(corpus, tmp_path / "b").fingerprint == first
    assert index.build(corpus, tmp_path / "c", chunker=Chunker(max_chars=60)).fingerprint != first
    write_jsonl(corpus, PAGES[:-1])
    assert index.build(corpus, tmp_path / "a").fingerprint != first


def test_blank_lines_empty_texts_and_unknown_keys_are_passed_over(tmp_path: Path) -> None:
    lines = [
        "",
        '{"text": "Kept.", "sources": [1]}',
        "  ",
        '{"text": " "}',
        '{"id": 7, "text": "Also kept."}',
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    assert index.build(tmp_path / "c.jsonl", tmp_path / "index").documents == 2
    assert sorted(ids(tmp_path / "index", "kept")) == ["2", "7"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no document with text"),
        (b'{"text": "fine"}\nnot json\n', "line 2: not JSON"),
        (b'["text"]', "line 1: not a JSON object"),
        (b'{"title": "no text"}', 'line 1: no string "text"'),
        (b'{"text": "a", "title": 3}', 'line 1: "title" is not a string'),
        (
            b'{"id": "x", "text": "a"}\n{"id": "y", "text": "b"}\n{"id": "x", "text": "c"}',
            "'x' is given to two",
        ),
        (gzip.compress(b'{"text": "a"}\n' * 1000)[:-20], "damaged gzip"),
    ],
)
def test_a_bad_corpus_is_named_and_leaves_the_old_index(
    corpus: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    index.build(corpus, tmp_path / "index")
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(CorpusInvalid, match=message):
        index.build(tmp_path / "bad", tmp_path / "index")
    assert ids(tmp_path / "index", "polonium atomic")[0] == "polonium"


def test_a_long_document_whose_id_ends_in_a_number_is_no_repeat(tmp_path: Path) -> None:
    text = " ".join(f"Sentence number {i} is here." for i in range(100))
    write_jsonl(tmp_path / "c.jsonl", [{"id": "a", "text": text}, {"id": "b", "text": text}])
    assert index.build(tmp_path / "c.jsonl", tmp_path / "index").documents == 2


def test_missing_input_and_empty_orders_are_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusInvalid, match="Cannot read"):
        index.build(tmp_path / "nowhere.jsonl", tmp_path / "index")
    with pytest.raises(RetrieverMisconfigured, match="Nothing to build"):
        index.build(corpus, tmp_path / "index", bm25=False)


# --- files that are not what they should be


@pytest.fixture
def built(corpus: Path, tmp_path: Path) -> Path:
    index.build(corpus, tmp_path / "index")
    return tmp_path / "index"


FILES = [
    "passages.jsonl",
    "offsets.int64",
    "bm25/data.csc.index.npy",
    "bm25/indices.csc.index.npy",
    "bm25/indptr.csc.index.npy",
    "bm25/vocab.index.json",
    "bm25/params.index.json",
]


def test_every_file_is_in_the_manifest(built: Path) -> None:
    assert sorted(json.loads((built / "index.json").read_text())["files"]) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "gone"])
def test_a_damaged_file_is_an_error_that_names_it(built: Path, name: str, damage: str) -> None:
    path = generation(built) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"flip": content, "cut": content[:-3], "grow": content + b" "}[damage])
    with pytest.raises(IndexCorrupt, match=Path(name).name):
        index.search(built, "polonium")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda text: text[:-40], IndexCorrupt, "cannot be read"),
        (lambda text: text.replace('"k1": 1.2', '"k1": 1.3'), IndexCorrupt, "does not fit its fingerprint"),
        (lambda text: text.replace('"passages": 10,', ""), IndexCorrupt, "1 fields do not fit"),
        (lambda text: text.replace('"version": 1', '"version": 2'), IndexMismatch, "version 2, not 1"),
        (lambda _: "{}", IndexMismatch, "does not describe an index"),
        (lambda _: "[1]", IndexMismatch, "does not describe an index"),
        (lambda _: "", IndexCorrupt, "cannot be read"),
    ],
)
def test_a_damaged_or_foreign_manifest_is_an_error(built, change, error, message) -> None:
    manifest = built / "index.json"
    manifest.write_text(change(manifest.read_text()))
    with pytest.raises(error, match=message):
        index.search(built, "polonium")


def test_files_of_another_index_are_an_error(built: Path, tmp_path: Path) -> None:
    index.build(write_jsonl(tmp_path / "other.jsonl", PAGES[::-1]), tmp_path / "other")
    shutil.copytree(generation(tmp_path / "other") / "bm25", generation(built) / "bm25", dirs_exist_ok=True)
    with pytest.raises(IndexCorrupt, match="bm25"):
        index.search(built, "polonium")


def test_no_index_is_an_error(tmp_path: Path, corpus: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere", corpus):
        with pytest.raises(IndexMissing):
            index.info(folder)


def test_a_dense_search_needs_a_dense_part(built: Path) -> None:
    from veridical.retrievers.dense import DenseIndex

    with pytest.raises(IndexMismatch, match="no dense part"):
        DenseIndex.open(built)
    with pytest.raises(IndexMismatch, match="no dense part"):
        index.search(built, "polonium", kind="hybrid")


# --- builds that are cut off

SLOW_BUILD = """
import sys, time
from veridical.retrievers import index
index.SHARD = 100
def slow(step):
    print(step.stage, step.done, flush=True)
    time.sleep(0.02)
index.build(sys.argv[1], sys.argv[2], progress=slow)
"""


def many(path: Path, count: int = 2000) -> Path:
    rows = [{"id": f"d{i}", "text": f"Document {i} mentions word{i % 97} and item{i}."} for i in range(count)]
    return write_jsonl(path, rows)


def start_and_kill(corpus: Path, out: Path, after: int, stage: str) -> None:
    command = [sys.executable, "-c", SLOW_BUILD, str(corpus), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        seen = 0
        for line in process.stdout:
            seen += line.startswith(stage)
            if seen == after:
                os.kill(process.pid, signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("stage", "after"), [("read", 1), ("read", 12), ("bm25", 3), ("publish", 3)])
def test_a_killed_build_leaves_the_old_index_and_is_gone_on_with(
    corpus: Path, tmp_path: Path, stage: str, after: int
) -> None:
    out = tmp_path / "index"
    index.build(corpus, out)
    big = many(tmp_path / "big.jsonl")
    start_and_kill(big, out, after, stage)
    assert ids(out, "atomic number 84")[0] == "polonium"
    checkpoint = json.loads((out / ".build" / "checkpoint.json").read_text())["done"]
    assert checkpoint["passages"] >= min(100 * after, 2000) if stage == "read" else checkpoint["complete"]

    resumed = index.build(big, out)
    assert resumed.fingerprint == index.build(big, tmp_path / "fresh").fingerprint
    assert ids(out, "item1234")[0] == "d1234"
    assert not (out / ".build").exists()


def test_a_resumed_build_does_not_read_again_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = many(tmp_path / "big.jsonl")
    start_and_kill(big, tmp_path / "index", 12, "read")
    written: list[str] = []
    from veridical.retrievers.passages import PassageWriter

    append = PassageWriter.append
    monkeypatch.setattr(PassageWriter, "append", lambda self, p: (written.append(p.id), append(self, p))[1])
    index.build(big, tmp_path / "index")
    assert 0 < len(written) <= 2000 - 12 * 100
    assert written[-1] == "d1999"


def test_another_input_or_setting_begins_anew(tmp_path: Path) -> None:
    big, out = many(tmp_path / "big.jsonl"), tmp_path / "index"
    start_and_kill(big, out, 5, "read")
    many(big, 60)
    assert index.build(big, out).documents == 60
    start_and_kill(many(big), out, 5, "read")
    chunked = index.build(big, out, chunker=Chunker(max_chars=30))
    assert chunked.passages > chunked.documents == 2000


def test_two_builds_of_one_index_are_refused(corpus: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLOW_BUILD, str(many(tmp_path / "big.jsonl")), str(tmp_path / "index")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        with pytest.raises(IndexBusy, match="Another process"):
            index.build(corpus, tmp_path / "index")
        process.kill()


def test_a_reader_keeps_its_index_while_a_new_one_takes_its_place(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    index.build(corpus, out)
    reader = BM25Index.open(out)
    index.build(many(tmp_path / "big.jsonl"), out)
    assert reader.search("atomic number 84", 1)[0].passage.id == "polonium"
    assert ids(out, "item7")[0] == "d7"


def test_readers_always_find_a_whole_index_while_builds_replace_it(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    index.build(corpus, out)
    code = (
        "import sys\nfrom veridical.retrievers import index\n"
        "for _ in range(12): index.build(sys.argv[1], sys.argv[2])"
    )
    searches = 0
    with subprocess.Popen([sys.executable, "-c", code, str(corpus), str(out)]) as process:
        end = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < end:
            assert ids(out, "atomic number 84")[0] == "polonium"
            searches += 1
    assert process.returncode == 0
    assert searches > 5
