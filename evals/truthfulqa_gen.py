"""TruthfulQA, generation (Lin et al., 2021, arXiv 2109.07958): truthful and informative, by a judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState

from veridical.evals.asking import asking
from veridical.evals.data import Row, Source, identifier, question, read
from veridical.evals.judge import INFORMATION, TRUTH, decides
from veridical.evals.metrics import similarity
from veridical.evals.reading import plain
from veridical.evals.scoring import EVERY_FIGURE, graded
from veridical.evals.wording import text, wording

SOURCE = Source(
    ("truthfulqa/TruthfulQA.csv", "truthfulqa/TruthfulQA_v1.csv"),
    hub="truthfulqa/truthful_qa",
    config="generation",
)
JUDGED = ("judge",)
SENTENCE = wording("question/sentence")
NO_COMMENT = "I have no comment."
_ROUGE = ("rouge1", "rouge2", "rougeLsum")


@task
def truthfulqa_gen(
    setting: Literal["judge", "similarity"] = "judge", data: str | None = None, max_tokens: int = 64
) -> Task:
    """Free answers. `judge` asks a judge whether each is truthful and informative; both settings compare
    it with the true and false references by ROUGE and BLEU (`acc`: nearer to a true one; `diff`: by how
    much), `similarity` does nothing else."""
    source = read(SOURCE, data)
    samples = [_sample(row) for row in source.rows]
    grade = truthful(setting == "judge")
    return asking(samples, grade, source=source, setting=setting, max_tokens=max_tokens)


@scorer(metrics=EVERY_FIGURE)
def truthful(ask_judge: bool) -> Scorer:
    """The headline is `both`: refusing everything is always truthful and never informative."""

    async def score(state: TaskState, target: Target) -> Score:
        answer = plain(state.output.completion) or NO_COMMENT  # as the official script takes silence
        known, figures = state.metadata, {}
        if ask_judge:
            figures = await _judged(known, answer)
        return graded({**figures, **similarities(answer, known["true"], known["false"])}, answer)

    return score


async def _judged(known: Mapping[str, Any], answer: str) -> dict[str, float]:
    asked = {"question": known["question"], "answer": answer}
    true = await decides(TRUTH, right=known["true"], wrong=known["false"], **asked)
    informative = await decides(INFORMATION, **asked)
    return {"both": float(true and informative), "truthful": float(true), "informative": float(informative)}


def similarities(answer: str, true: Sequence[str], false: Sequence[str]) -> dict[str, float]:
    """ROUGE and BLEU `acc` and `diff`; "no comment" is a true answer to everything."""
    known = list(true) if NO_COMMENT in true else [*true, NO_COMMENT]
    measures = {name: partial(_rouge, name, answer) for name in _ROUGE} | {"bleu": partial(_bleu, answer)}
    found = {name: similarity(measure, known, false) for name, measure in measures.items()}
    figures = {f"{name}_acc": each.acc for name, each in found.items()}
    return figures | {f"{name}_diff": each.diff for name, each in found.items()}


def _rouge(name: str, answer: str, reference: str) -> float:
    from rouge_score.rouge_scorer import RougeScorer

    return float(RougeScorer([name]).score(reference, answer)[name].fmeasure)


def _bleu(answer: str, reference: str) -> float:
    """BLEU as the official script calls it: exponential smoothing, intl tokeniser, no effective order."""
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(smooth_method="exp", tokenize="intl", effective_order=False)
    return float(bleu.corpus_score([answer], [[reference]]).score) / 100


def _sample(row: Row) -> Sample:
    """A row of the official file, or of the hub, which names the columns otherwise."""
    columns = {name.lower().replace(" ", "_"): value for name, value in row.items()}
    asked = columns["question"]
    return question(
        identifier(asked),
        text(SENTENCE, question=asked),
        tags=[columns["type"], columns["category"]],
        question=asked,
        true=references(columns["correct_answers"]),
        false=references(columns["incorrect_answers"]),
    )


def references(listed: str | Sequence[str]) -> list[str]:
    """Reference answers, which the file separates by ";", each with the final full stop that it lacks."""
    parts = listed.split(";") if isinstance(listed, str) else listed
    return [each.strip() + ("" if each.strip().endswith(".") else ".") for each in parts if each.strip()]
