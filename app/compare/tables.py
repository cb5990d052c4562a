"""A batch's results as the paper's table: three labels with accuracy and weighted F1, the reply with its overlap scores.

Beside the systems stand the trivial baselines where there is a training split to learn them from.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Final

from multimood_core.baselines import label_baselines, reply_baselines
from multimood_core.decoding import LABELS
from multimood_core.dialogues import Item
from multimood_core.evaluation import ItemResult, score_labels, score_replies, score_tasks
from multimood_core.records import LabelPrediction
from multimood_core.reward_scores import situation_of
from multimood_core.rewards import RewardFunction
from multimood_core.text_metrics import TokenMatcher, token_matchers

TASKS: Final = {"client_emotion": "client's emotion", "therapist_emotion": "therapist's emotion", "strategy": "strategy"}
REPLY: Final = {
    "bleu2_released": "BLEU-2 as released", "bleu2": "BLEU-2", "rouge_l": "ROUGE-L", "bertscore/roberta-large": "BERTScore",
    "tokenscore/minilm": "token score, MiniLM",
}  # fmt: skip
MARGIN: Final = 0.05  # of the reward: a smaller difference prefers nothing


def score(
    names: Sequence[str],
    results: Sequence[Sequence[ItemResult]],
    items: Sequence[Item],
    learnt: Sequence[Item] | None,
    rewards: RewardFunction,
    protocol: str,
    matchers: Sequence[TokenMatcher] | None = None,
) -> dict[str, Any]:
    """Scores of all systems and baselines in plain values.

    Args:
        names: of the systems.
        results: of each, one for each item.
        items: what was asked.
        learnt: what baselines learn from; no baselines when None.
        rewards: of the replies.
        protocol: which labels stood in the history.
        matchers: for the replies; those of this machine when None.
    """
    matchers = token_matchers() if matchers is None else matchers
    groups, truth = [result.dialogue for result in results[0]], {t: [r.truth[t] for r in results[0]] for t in LABELS}
    references = [result.reference for result in results[0]]
    situations = [situation_of(item) for item in items]
    rows = []
    for name, found in zip(names, results, strict=True):
        missing = sum(result.missing for result in found)
        replies = [result.response for result in found]
        scored = rewards(situations, [reply or "" for reply in replies])
        rows.append(
            {
                "name": name,
                "tasks": {task: _label_row(scores) for task, scores in score_tasks(found).items()},
                "reply": _reply_row(score_replies(references, replies, groups, matchers, missing)),
                "reward": _mean([reward.total for reward in scored]),
                "totals": [reward.total for reward in scored],
                "parts": [dict(reward.parts) for reward in scored],
            }
        )
    others: list[dict[str, Any]] = []
    note = "" if learnt else "No training split lies beside these data, so there are no baselines."
    try:
        labels = label_baselines(learnt, items, protocol == "gold-history") if learnt else {}
        said = reply_baselines(learnt, items) if learnt else {}
    except ValueError as cause:  # too few examples, or a label with one class alone
        note = f"The baselines could not be learnt from the training split beside these data: {cause}"
    else:
        for name, tasks in labels.items():
            given = {task: [LabelPrediction(label, {}) for label in found_] for task, found_ in tasks.items()}
            scores = {task: _label_row(score_labels(truth[task], given[task], groups)) for task in given}
            others.append({"name": name, "tasks": scores, "reply": None})
        for name, replies_ in said.items():
            others.append({"name": name, "tasks": {}, "reply": _reply_row(score_replies(references, replies_, groups, matchers))})
    return {"n": len(items), "protocol": protocol, "systems": rows, "baselines": others, "note": note}


def _label_row(scores: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("accuracy", "weighted_f1", "n", "n_missing", "n_unparsed")
    return {key: scores[key] for key in kept} | {"interval": scores["intervals"]["accuracy"]}


def _reply_row(scores: Mapping[str, Any]) -> dict[str, Any]:
    row = {key: {"value": scores[key], "interval": scores["intervals"].get(key)} for key in REPLY if key in scores}
    return row | {key: scores[key] for key in ("n", "n_missing", "n_unparsed", "words")}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def table(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Header and rows of text, in the paper's order; a baseline's row says so."""
    keys = [key for key in REPLY if any(key in row["reply"] for row in scores["systems"])]
    header = ["system", *(f"{shown}: accuracy / weighted F1" for shown in TASKS.values()), *(REPLY[key] for key in keys)]
    header += ["reward", "n", "not read", "no answer"]
    rows = [_row(row, keys, False) for row in scores["systems"]] + [_row(row, keys, True) for row in scores["baselines"]]
    return {"header": header, "rows": rows, "n": scores["n"], "protocol": scores["protocol"], "note": scores["note"]}


def _row(row: Mapping[str, Any], keys: Sequence[str], baseline: bool) -> dict[str, Any]:
    cells, spans = [row["name"]], [""]
    for task in TASKS:
        found = row["tasks"].get(task)
        cells.append(f"{_percent(found['accuracy'])} / {_percent(found['weighted_f1'])}" if found else "")
        spans.append(_span(found["interval"]) if found else "")
    for key in keys:
        found = (row["reply"] or {}).get(key)
        cells.append(_percent(found["value"]) if found else "")
        spans.append(_span(found["interval"]) if found and found["interval"] else "")
    cells.append("" if row.get("reward") is None else f"{row['reward']:.3f}")
    counts = row["reply"] or next(iter(row["tasks"].values()))
    unread = max([counts["n_unparsed"], *(found["n_unparsed"] for found in row["tasks"].values())])
    cells += [str(counts["n"]), str(unread), str(counts["n_missing"])]
    return {"cells": cells, "spans": spans + [""] * (len(cells) - len(spans)), "baseline": baseline}


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _span(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


# -- files -----------------------------------------------------------------------------------------------------------


def as_csv(names: Sequence[str], results: Mapping[int, Sequence[ItemResult]], scores: Mapping[str, Any]) -> str:
    """A line for each item and system."""
    file = io.StringIO()
    fields = ["item", "system", *(f"{task}_{kind}" for task in LABELS for kind in ("truth", "predicted", "probability"))]
    writer = csv.DictWriter(file, [*fields, "reference", "response", "reward", "seconds", "missing"])
    writer.writeheader()
    for place, name in enumerate(names):
        for number, result in enumerate(results[place]):
            row: dict[str, Any] = {"item": result.id, "system": name}
            for task in LABELS:
                found = result.predicted.get(task)
                row[f"{task}_truth"], row[f"{task}_predicted"] = result.truth[task], found.label if found else ""
                row[f"{task}_probability"] = found.probabilities.get(found.label, "") if found else ""
            row |= {"reference": result.reference, "response": result.response or "", "missing": int(result.missing)}
            row |= {"reward": scores["systems"][place]["totals"][number], "seconds": round(result.seconds, 3)}
            writer.writerow({key: _cell(value) for key, value in row.items()})
    return file.getvalue()


def _cell(value: Any) -> Any:
    """A spreadsheet would run text that begins like a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def as_json(
    plan: Mapping[str, Any], results: Mapping[int, Sequence[ItemResult]], scores: Mapping[str, Any]
) -> str:
    """Everything."""
    found = [row | {"items": [r.plain() for r in results[place]]} for place, row in enumerate(scores["systems"])]
    return json.dumps({"plan": plan, **scores, "systems": found}, ensure_ascii=False, indent=1) + "\n"


def preference_pairs(
    names: Sequence[str], items: Sequence[Item], results: Mapping[int, Sequence[ItemResult]], scores: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Pairs of replies to an item in the form of a study's preference pairs, chosen by the reward beyond ``MARGIN``."""
    totals, found = [row["totals"] for row in scores["systems"]], []
    for number, item in enumerate(items):
        for one, two in combinations(range(len(names)), 2):
            left, right = totals[one][number], totals[two][number]
            if left is None or right is None or abs(left - right) < MARGIN:
                continue
            better, worse = (one, two) if left > right else (two, one)
            chosen, rejected = results[better][number].response, results[worse][number].response
            if not (chosen or "").strip() or not (rejected or "").strip() or chosen == rejected:
                continue
            turns = [
                {"speaker": t.speaker, "text": t.text, "emotion": t.emotion, "strategy": t.strategy}
                for t in item.dialogue.turns[: item.index + 1]
            ]
            context = {"problem": item.dialogue.context.problem, "situation": item.dialogue.context.situation}
            found.append(
                {
                    "item": item.id, "context": context, "history": turns[:-1], "client": turns[-1], "chosen": chosen,
                    "rejected": rejected, "chosen_system": names[better], "rejected_system": names[worse], "criterion": "reward",
                }
            )  # fmt: skip
    return found
