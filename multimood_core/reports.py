"""An evaluation's JSON, or the comparison of two, as a document of tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from multimood_core import figures
from multimood_core.documents import Block, Command, Heading, Pair, Picture, Table, Text
from multimood_core.errors import DataError
from multimood_core.stored_reports import holds_rewards

# What the paper and SMES's authors report on MESC's test split with gold labels in the history: accuracy and weighted F1
# of the three labels (paper, tables 3 and 7), and BLEU-2 as released, ROUGE-L and BERTScore of the replies.
PAPER: Final[dict[str, dict[str, tuple[float, ...]]]] = {
    "MultiMood SFT+GRPO (paper, 7B)": {
        "client_emotion": (58.60, 57.78), "therapist_emotion": (99.33, 99.00), "strategy": (42.81, 39.65),
        "response": (6.18, 17.86, 86.80),
    },
    "MultiMood SFT+Comp+GRPO (paper, 7B)": {
        "client_emotion": (55.94, 55.33), "therapist_emotion": (99.11, 99.11), "strategy": (38.10, 34.58),
        "response": (5.42, 15.83, 86.00),
    },
    "MultiMood, no history (paper)": {
        "client_emotion": (45.2, 40.6), "therapist_emotion": (98.9, 91.2), "strategy": (32.1, 28.3),
        "response": (3.9, 13.6, 85.2),
    },
    "SMES (as the paper reports it)": {
        "client_emotion": (54.60, 46.80), "therapist_emotion": (96.10, 64.00), "strategy": (49.00, 20.20),
        "response": (5.13, 15.42, 86.80),
    },
}  # fmt: skip
PAPER_ITEMS: Final = 454  # of MESC's test split; a part of them is no ground to stand beside the paper on
_LABEL_SCORES: Final = {"accuracy": "accuracy", "weighted_f1": "weighted F1", "macro_f1": "macro F1", "uar": "UAR"}
_REPLY_SCORES: Final = {
    "bleu2_released": "BLEU-2 as released", "bleu2": "BLEU-2", "bleu2_corpus": "BLEU-2, corpus", "rouge_l": "ROUGE-L",
    "meteor": "METEOR", "meteor_stem": "METEOR, no synonyms", "bertscore/roberta-large": "BERTScore",
    "tokenscore/minilm": "token score, MiniLM", "distinct_1": "distinct-1", "distinct_2": "distinct-2",
}  # fmt: skip
_NAMES: Final = {
    "client_emotion": "Client's emotion",
    "therapist_emotion": "Therapist's emotion",
    "strategy": "Strategy",
}


def document(report: Mapping[str, Any]) -> Iterator[Block]:
    """A report of ``train.evaluate`` as blocks, in the order of reading."""
    yield Heading(f"{report['data']}, {report['protocol']}", 1)
    about = [str(report[key]) for key in ("system",) if report.get(key)]
    if report.get("checkpoint"):
        about.append(f"checkpoint {report['checkpoint']['name']} ({report['checkpoint']['sha256'][:12]})")
    yield Text(f"{', '.join(about) or 'One system'}; split {report.get('split', 'all')}; n = {report['n']}.")
    yield Command(report["command"])
    yield from _labels(report)
    if report.get("responses"):
        yield from _replies(report)
    if report.get("rewards"):
        yield from _rewards(report["rewards"])
    if report.get("folds"):
        yield Heading("Folds")
        yield Table(
            ("fold", "n", "WAR", "UAR"),
            [
                (fold, str(row["n"]), _percent(row["accuracy"]), _percent(row["uar"]))
                for fold, row in report["folds"].items()
            ],
        )
    if report.get("variants") or report.get("not_run"):
        yield from _ablations(report)
    yield from _costs(report)


def _labels(report: Mapping[str, Any]) -> Iterator[Block]:
    for task, scores in report["tasks"].items():
        yield Heading(_NAMES.get(task, task))
        rows = [_label_row("this system", scores), *_paper_rows(report, task)]
        rows += [_label_row(name, found[task]) for name, found in report["baselines"].items() if task in found]
        yield Table(
            ("system", "n", "n missing", "n unparsed", *_LABEL_SCORES.values(), "95 % interval of accuracy"), rows
        )
        yield from _label_notes(scores)
        yield from _label_figures(report, task, scores)


def _label_row(name: str, scores: Mapping[str, Any]) -> tuple[str, ...]:
    interval = scores.get("intervals", {}).get("accuracy") or scores.get("accuracy_interval")
    return (
        name,
        *(str(scores[key]) if key in scores else "" for key in ("n", "n_missing", "n_unparsed")),
        *(_percent(scores[key]) for key in _LABEL_SCORES),
        f"{_percent(interval[0])} to {_percent(interval[1])}" if interval else "",
    )


def _paper_rows(report: Mapping[str, Any], task: str) -> list[tuple[str, ...]]:
    """The paper's figures where they are of the same items and protocol."""
    if not _like_the_paper(report):
        return []
    return [(name, "", "", "", *(f"{v:.2f}" for v in found[task]), "", "", "") for name, found in PAPER.items()]


def _like_the_paper(report: Mapping[str, Any]) -> bool:
    same = (report["data"], report.get("split"), report["protocol"]) == ("mesc", "test", "gold-history")
    return same and report["n"] == PAPER_ITEMS


def _label_notes(scores: Mapping[str, Any]) -> Iterator[Block]:
    notes = []
    if "preference_bias" in scores:
        lean = sorted(scores["lean"].items(), key=lambda pair: -abs(pair[1]))[:3]
        leans = ", ".join(f"{name} {100 * value:+.1f}" for name, value in lean)
        notes.append(f"Preference bias {scores['preference_bias']:.3f} (furthest, in points: {leans}).")
    if scores.get("ece") is not None:
        notes.append(
            f"Calibration error {scores['ece']:.3f}" + (f", Brier {scores['brier']:.3f}." if "brier" in scores else ".")
        )
    if notes:
        yield Text(" ".join(notes))


def _label_figures(report: Mapping[str, Any], task: str, scores: Mapping[str, Any]) -> Iterator[Block]:
    if scores.get("confusion"):
        yield Picture(
            f"{task}-confusion", "Confusion: truth by rows, answers by columns.", figures.confusion(scores["confusion"])
        )
    if scores.get("recall"):
        yield Picture(f"{task}-recall", "Recall of each class.", figures.bars(scores["recall"], "recall"))
    if scores.get("reliability"):
        yield Picture(
            f"{task}-reliability",
            "Reliability: accuracy of answers by their confidence.",
            figures.reliability(scores["reliability"]),
        )
    yield from _differences(report.get("differences", {}).get(task, {}), task, "this system less baseline")


def _differences(found: Mapping[str, Mapping[str, Any]], name: str, what: str) -> Iterator[Block]:
    rows = [(other, key, d) for other, scores in found.items() for key, d in scores.items()]
    if not rows:
        return
    yield Text(f"Differences, {what}, paired bootstrap over {rows[0][2]['groups']} dialogues:")
    yield _difference_table([(f"{other}: {key}", d) for other, key, d in rows])
    shown = {f"{other}: {key}": (d["value"], d["low"], d["high"]) for other, key, d in rows}
    yield Picture(
        f"{name}-differences",
        f"Differences with 95 % intervals, {what}.",
        figures.intervals(shown, "difference", zero=True),
    )


def _difference_table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    return Table(
        ("difference", "value", "95 % interval", "p"),
        [
            (name, f"{100 * d['value']:+.2f}", f"{100 * d['low']:+.2f} to {100 * d['high']:+.2f}", _p(d["p"]))
            for name, d in rows
        ],
    )


def _replies(report: Mapping[str, Any]) -> Iterator[Block]:
    own = report["responses"]
    yield Heading("Replies")
    keys = [key for key in _REPLY_SCORES if key in own]
    rows = [
        _reply_row("this system", own, keys),
        *(_reply_row(n, found, keys) for n, found in own["baselines"].items()),
    ]
    if _like_the_paper(report):
        places = {"bleu2_released": 0, "rouge_l": 1, "bertscore/roberta-large": 2}
        for name, tasks in PAPER.items():
            cells = [f"{tasks['response'][places[key]]:.2f}" if key in places else "" for key in keys]
            rows.append((name, "", "", "", *cells, ""))
    yield Table(("system", "n", "n missing", "n unparsed", *(_REPLY_SCORES[key] for key in keys), "words"), rows)
    yield Text(f"The therapists' own replies have {own['words_of_reference']:.1f} words on average.")
    shown = {_REPLY_SCORES[k]: (own[k], *own["intervals"][k]) for k in keys if k in own["intervals"]}
    yield Picture("response-scores", "Scores of the replies with 95 % intervals.", figures.intervals(shown, "score"))
    yield from _differences(report["differences"].get("response", {}), "response", "this system less baseline")


def _reply_row(name: str, scores: Mapping[str, Any], keys: Sequence[str]) -> tuple[str, ...]:
    counts = (str(scores[key]) for key in ("n", "n_missing", "n_unparsed"))
    return (name, *counts, *(_percent(scores[key]) if key in scores else "" for key in keys), f"{scores['words']:.1f}")


def _rewards(rewards: Mapping[str, Any]) -> Iterator[Block]:
    yield Heading("Rewards of the replies")
    names, systems = list(rewards["parts"]), {"this system": rewards["parts"]} | rewards["baselines"]
    yield Table(
        ("part", "n", "missing", *systems),
        [
            (
                name,
                str(rewards["parts"][name]["n"]),
                str(rewards["parts"][name]["n_missing"]),
                *(f"{parts[name]['mean']:.3f}" if "mean" in parts[name] else "" for parts in systems.values()),
            )
            for name in names
        ],
    )
    caption = "Reward of the replies and its parts, with 95 % intervals."
    yield Picture("rewards", caption, _reward_figure(rewards["parts"]))


def _reward_figure(parts: Mapping[str, Any]) -> str:
    shown = {name: (row["mean"], *row["interval"]) for name, row in parts.items() if "mean" in row}
    return figures.intervals(shown, "mean")


def _ablations(report: Mapping[str, Any]) -> Iterator[Block]:
    yield Heading(f"Ablations ({report['ablations']})")
    systems = {"everything": report} | report["variants"]
    tasks = list(report["tasks"])
    header = ["system", "n", *(f"{_NAMES.get(task, task)}: accuracy / weighted F1" for task in tasks)]
    keys = [
        key for key in ("bleu2_released", "bleu2", "rouge_l", "tokenscore/minilm") if key in report.get("responses", {})
    ]
    rows = []
    for name, found in systems.items():
        cells = [
            f"{_percent(found['tasks'][t]['accuracy'])} / {_percent(found['tasks'][t]['weighted_f1'])}" for t in tasks
        ]
        rows.append((name, str(found["n"]), *cells, *(_percent(found["responses"][key]) for key in keys)))
    yield Table([*header, *(_REPLY_SCORES[key] for key in keys)], rows)
    for name, found in report["variants"].items():
        yield Text(f"Everything less {name}:")
        rows_ = [(f"{task}: {key}", d) for task, scores in found["differences"].items() for key, d in scores.items()]
        yield _difference_table(rows_)
    for name, reason in report["not_run"].items():
        yield Text(f"Not run: {name}, since {reason}.")


def _costs(report: Mapping[str, Any]) -> Iterator[Block]:
    notes = []
    if report.get("seconds"):
        notes.append(
            f"{report['seconds']['median']:.2f} s for half of the items, {report['seconds']['p95']:.2f} s for 95 %."
        )
    if report.get("peak_memory_mb"):
        notes.append(f"Peak memory of the process {report['peak_memory_mb']:.0f} MB.")
    if saved := report.get("token_reduction"):
        notes.append(
            f"The history takes {saved['text']:.1f} tokens as text and {saved['kept']:.1f} in the prompt: "
            f"{100 * saved['reduction']:.1f} % fewer."
        )
    for name, calls in report.get("calls", {}).items():
        cost = "cost not known" if calls["cost"] is None else f"cost {calls['cost']:.2f}"
        notes.append(
            f"{calls['model']}, {name}: {calls['calls']} calls, {calls['failed']} failed, {calls['cached']} from the disk, "
            f"{calls['tokens_in']} tokens read and {calls['tokens_out']} written, {cost}."
        )
    left = {**report.get("n_left_out", {}), **report.get("n_unreadable", {})}
    notes += [f"{count} clips left out or unreadable: {what}." for what, count in left.items()]
    if notes:
        yield Heading("Cost and counts")
        yield from (Text(note) for note in notes)


def comparison(found: Mapping[str, Any]) -> Iterator[Block]:
    """What ``compare_reports`` or ``side_by_side`` found, as blocks: scores, differences and figures next to each other."""
    sides = {"A": found["first"], "B": found["second"]}
    names = {letter: _name_of(side) for letter, side in sides.items()}
    yield Heading(f"A {names['A']} and B {names['B']}", 1)
    if found.get("unpaired"):
        yield Text(f"No paired differences: {found['unpaired']}")
    else:
        yield Text(
            f"Differences are A less B, on {found['n']} items of {found['dialogues']} groups that both have; "
            f"{found['n_only_first']} and {found['n_only_second']} that one alone has are left out."
        )
    if sides["A"]["protocol"] != sides["B"]["protocol"]:
        yield Text(
            "The two were made under different protocols: the difference is that of protocol and system together."
        )
    yield Command(found["command"])
    differences = found["differences"]
    tasks = dict.fromkeys([*(sides["A"].get("tasks") or {}), *(sides["B"].get("tasks") or {}), *differences])
    for task in tasks:
        if task != "response":
            yield Heading(_NAMES.get(task, task.capitalize()))
            scores = {letter: side["tasks"][task] for letter, side in sides.items() if task in (side.get("tasks") or {})}
            yield from _two_labels(task, scores, names)
            yield from _two_differences(task, differences.get(task, {}))
    replies = {letter: side["responses"] for letter, side in sides.items() if side.get("responses")}
    if replies or "response" in differences:
        yield Heading("Replies")
        yield from _two_replies(replies, names)
        yield from _two_differences("response", differences.get("response", {}))
    rewards = {letter: side["rewards"]["parts"] for letter, side in sides.items() if side.get("rewards")}
    if rewards:
        yield Heading("Rewards of the replies")
        parts = dict.fromkeys(name for found in rewards.values() for name in found)
        means = [(name, *(_mean(found.get(name, {})) for found in rewards.values())) for name in parts]
        yield Table(("part", *(f"{letter} {names[letter]}" for letter in rewards)), means)
        yield _pair("rewards", "Reward of the replies and its parts, with 95 % intervals", rewards, _reward_figure)


def _name_of(side: Mapping[str, Any]) -> str:
    system = side.get("system") or (side.get("checkpoint") or {}).get("name") or "one system"
    return f"{system} ({side.get('data', '')}, {side['protocol']})"


def _mean(row: Mapping[str, Any]) -> str:
    return f"{row['mean']:.3f}" if "mean" in row else ""


def _pair(name: str, caption: str, found: Mapping[str, Any], draw: Callable[[Any], str]) -> Pair:
    """One figure of each side that has what it shows; ``found`` is by letter."""
    drawn = {
        letter: Picture(f"{name}-{letter}", f"{letter}: {caption}.", draw(shown)) for letter, shown in found.items()
    }
    return Pair(drawn.get("A"), drawn.get("B"))


def _two_labels(task: str, scores: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> Iterator[Block]:
    if not scores:
        return
    yield Table(
        ("system", "n", "n missing", "n unparsed", *_LABEL_SCORES.values(), "95 % interval of accuracy"),
        [_label_row(f"{letter} {names[letter]}", row) for letter, row in scores.items()],
    )
    shown = {
        f"{label}, {letter}": (row[key], *row["intervals"][key])
        for key, label in _LABEL_SCORES.items()
        for letter, row in scores.items()
        if key in row.get("intervals", {})
    }
    if shown:
        yield Picture(f"{task}-scores", "Scores with 95 % intervals.", figures.intervals(shown, "score"))
    kinds: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
        ("confusion", "confusion, truth by rows, answers by columns", figures.confusion),
        ("recall", "recall of each class", lambda values: figures.bars(values, "recall")),
        ("reliability", "reliability, accuracy of answers by their confidence", figures.reliability),
    )
    for key, caption, draw in kinds:
        found = {letter: row[key] for letter, row in scores.items() if row.get(key)}
        if found:
            yield _pair(f"{task}-{key}", caption, found, draw)


def _two_differences(name: str, scores: Mapping[str, Mapping[str, Any]]) -> Iterator[Block]:
    if scores:
        yield Text("A less B, paired bootstrap:")
        yield _difference_table(list(scores.items()))
        shown = {key: (d["value"], d["low"], d["high"]) for key, d in scores.items()}
        figure = figures.intervals(shown, "difference", zero=True)
        yield Picture(f"{name}-differences", "Differences with 95 % intervals.", figure)


def _two_replies(replies: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> Iterator[Block]:
    keys = [key for key in _REPLY_SCORES if any(key in own for own in replies.values())]
    if replies:
        header = ("system", "n", "n missing", "n unparsed", *(_REPLY_SCORES[key] for key in keys), "words")
        yield Table(header, [_reply_row(f"{letter} {names[letter]}", own, keys) for letter, own in replies.items()])
        shown = {
            f"{_REPLY_SCORES[key]}, {letter}": (own[key], *own["intervals"][key])
            for key in keys
            for letter, own in replies.items()
            if key in own.get("intervals", {})
        }
        if shown:
            yield Picture("response-scores", "Scores of the replies with 95 % intervals.", figures.intervals(shown, "score"))


def _scored_rewards(found: Mapping[str, Any]) -> Iterator[Block]:
    """What ``train.score_rewards`` found: each part's mean, and how far the later ones lie above the first."""
    first, *others = found
    yield Heading(f"Rewards of the replies: {', '.join(found)}", 1)
    yield Text("; ".join(f"{name}: n = {one['n']}" for name, one in found.items()) + ".")
    parts = dict.fromkeys(part for one in found.values() for part in one["parts"])
    rows = [(part, *(_interval_cell(one["parts"].get(part)) for one in found.values())) for part in parts]
    yield Table(("part", *found), rows)
    shown = {
        f"{part}, {name}": (row["value"], row["low"], row["high"])
        for part in parts
        for name, one in found.items()
        if part != "words" and (row := one["parts"].get(part))
    }
    yield Picture("rewards", "Parts of the reward with 95 % intervals.", figures.intervals(shown, "mean"))
    for name in others:
        yield Text(f"{name} less {first}, paired bootstrap:")
        gaps = found[name]["differences"]
        yield Table(
            ("difference", "value", "95 % interval", "p"),
            [(p, f"{d['value']:+.3f}", f"{d['low']:+.3f} to {d['high']:+.3f}", _p(d["p"])) for p, d in gaps.items()],
        )


def _interval_cell(row: Mapping[str, float] | None) -> str:
    return f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})" if row else ""


def blocks_of(report: Mapping[str, Any]) -> list[Block]:
    """A stored report, of one system, of a comparison or of rewards, as blocks.

    Raises:
        DataError: it lacks something that a report of ``train.evaluate`` has.
    """
    try:
        if holds_rewards(report):
            return list(_scored_rewards(report))
        return list(comparison(report) if "first" in report else document(report))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as cause:
        raise DataError(
            f"Expected a report as train.evaluate writes it, but a part of it is absent or of another form ({cause!r}). "
            "Run its command again."
        ) from cause


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
