"""An evaluation's JSON as a document: tables and figures, written as Markdown or as one HTML page of its own."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from multimood_core import figures

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


@dataclass(frozen=True, slots=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """What a reader runs to get the same."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure; ``name`` is its file's, ``svg`` its text."""

    name: str
    caption: str
    svg: str


Block = Heading | Text | Command | Table | Picture


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
    return (report["data"], report.get("split"), report["protocol"]) == ("mesc", "test", "gold-history")


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
    shown = {n: (row["mean"], *row["interval"]) for n, row in rewards["parts"].items() if "mean" in row}
    yield Picture(
        "rewards", "Reward of the replies and its parts, with 95 % intervals.", figures.intervals(shown, "mean")
    )


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
    """What ``compare_reports`` found, as blocks."""
    names = [
        f"{side['system'] or (side['checkpoint'] or {}).get('name')} ({side['protocol']})"
        for side in (found["first"], found["second"])
    ]
    yield Heading(f"{names[0]} less {names[1]}", 1)
    yield Text(
        f"{found['n']} items of {found['dialogues']} groups that both have; {found['n_only_first']} and "
        f"{found['n_only_second']} that one alone has are left out."
    )
    if found["first"]["protocol"] != found["second"]["protocol"]:
        yield Text(
            "The two were made under different protocols: the difference is that of protocol and system together."
        )
    yield Command(found["command"])
    for task, scores in found["differences"].items():
        yield Heading(_NAMES.get(task, task.capitalize()))
        yield _difference_table(list(scores.items()))
        shown = {key: (d["value"], d["low"], d["high"]) for key, d in scores.items()}
        yield Picture(
            f"{task}-differences", "Differences with 95 % intervals.", figures.intervals(shown, "difference", zero=True)
        )


def as_markdown(blocks: Sequence[Block], folder: str) -> str:
    """The blocks in Markdown; figures are files of ``folder``, which lies beside it."""
    parts = []
    for block in blocks:
        match block:
            case Heading(text, level):
                parts.append(f"{'#' * level} {text}")
            case Text(text):
                parts.append(text)
            case Command(text):
                parts.append(f"```bash\n{text}\n```")
            case Table(header, rows):
                lines = [header, ["---"] * len(header), *rows]
                parts.append("\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines))
            case Picture(name, caption, _):
                parts.append(f"![{caption}]({folder}/{name}.svg)")
    return "\n\n".join(parts) + "\n"


_CSS: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;color:#1f2933;max-width:64rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;display:block;overflow-x:auto;margin:1rem 0}"
    "td,th{border:1px solid #c9d6df;padding:.3rem .6rem;text-align:right;white-space:nowrap}"
    "td:first-child,th:first-child{text-align:left}th{background:#eef3f6}"
    "pre{background:#eef3f6;padding:.8rem;overflow-x:auto}figure{margin:1rem 0}figcaption{color:#52606d}"
    "svg{max-width:100%;height:auto}"
)


def as_html(blocks: Sequence[Block]) -> str:
    """The blocks as one page that needs no other file and asks no host for anything."""
    parts, title = [], "Evaluation"
    for number, block in enumerate(blocks):
        match block:
            case Heading(text, level):
                title = text if level == 1 else title
                parts.append(f"<h{level}>{html.escape(text)}</h{level}>")
            case Text(text):
                parts.append(f"<p>{html.escape(text)}</p>")
            case Command(text):
                parts.append(f"<pre><code>{html.escape(text)}</code></pre>")
            case Table(header, rows):
                head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
                body = "".join(
                    "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
                )
                parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
            case Picture(_, caption, svg):
                # Ids of several figures in one page must differ.
                own = (
                    svg.replace('id="', f'id="f{number}-')
                    .replace('href="#', f'href="#f{number}-')
                    .replace("url(#", f"url(#f{number}-")
                )
                own = own.replace("<svg ", f'<svg role="img" aria-label="{html.escape(caption, quote=True)}" ', 1)
                parts.append(f"<figure>{own}<figcaption>{html.escape(caption)}</figcaption></figure>")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_CSS}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
