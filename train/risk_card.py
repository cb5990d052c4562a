"""The card of the risk screen, from its figures, so that none of them is typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

_CARD: Final = """# The risk screen: words that may show danger to a person

A curated lexicon (`lexicon.yaml`) and a small head on MiniLM's frozen states (all-MiniLM-L6-v2, Apache-2.0, not included):
{parameters} parameters, SHA-256 of `head.safetensors` `{sha256}`.

**Research use only.** English words alone. It misses risk and raises false alarms; it is a second pair of eyes for a
professional, no assessment of a person, and no alert is no all-clear.

## What raises an alert
- words of the lexicon, in four categories: self-harm, harm to others, abuse, acute crisis; idioms are taken out before,
  and what is denied does not count;
- the head, from {turn} on, for self-harm alone: there are no data at hand from which it could learn the other three,
  which rest on the lexicon;
  what an idiom or a denial explains (see the lexicon) the head does not judge;
- the last eight turns together: weak signs of the lexicon that add up, or the mean of the three highest of the head's
  probabilities from {window} on.

## People it has not seen
{people}. The levels (C-SSRS, Gaur et al. 2019) were given by experts **to people, not to posts**; nobody stands in two parts.
A person is *noticed* where at least one of the person's posts raises the alarm; *alarmed* are posts per 100. Each alarm is taken
as cleared at once. 95 % intervals from resampling people. **Test part**{first}

{test}

The bar: at least {recall:.2f} of the people at Ideation and above noticed, with at most {alarms:.0f} alarms per 100 posts of
people not at risk. **{verdict}** Of the people not at risk, {others} had an alarm in some post: many of their posts speak of
suicide, as these are forums of support, and Indicator is a level of risk of its own.
A single post says little: of all posts of people at risk, {single} per 100 raise the alarm, hardly more than of the others.
Most of their posts say nothing of risk, so this is no recall of risky posts; there are no labels of posts to measure that.

The thresholds are those that notice most people in cross-validation over the {n_apart} people of train and val, each read by a
head that learnt from the other folds, with at most {most:.0f} alarms per 100 posts there:
{apart_noticed} % noticed, {apart_alarms} alarms per 100 posts of people not at risk.

The same on the validation part, where settings and patterns were chosen:

{val}

### The trade-off (cross-validation)
{curve}

## Lines as they are spoken
Reddit posts are long and written; a client's turn is short and spoken. Hand-written lines (`lines.yaml`, by this project's
authors, who knew the lexicon), *tuned* used to mend it, *held* measured; its alarms led to the last changes all the same:

{lines}

Conversations whose turns are harmless one by one: {windows}.

Everyday talk: {everyday[turns]} client turns of MESC's {everyday[split]} part (a TV series about therapy, so some alarms are
right; nobody has read them for risk): {everyday[both]:.1f} alarms per 100 turns, the lexicon alone {everyday[lexicon]:.1f}.

## Speed
{milliseconds[turns]} turns of MESC, judged with the seven before: {milliseconds[processor_median]:.0f} ms of processor time
(median; 95th percentile {milliseconds[processor_p95]:.0f} ms). By the clock {milliseconds[median]:.0f} ms and
{milliseconds[p95]:.0f} ms, on 2 cores of which other work had most.

## How it was trained
`python -m train.risk --config train/configs/risk_mini.yaml`. Data: C-SSRS Reddit (research use), MESC's training part and
hand-written lines as everyday talk. Nothing of the data is in these files.
"""


def write_card(folder: Path) -> Path:
    """Write README.md beside ``report.json`` and ``risk.json``."""
    report, risk = (json.loads((folder / f"{name}.json").read_text()) for name in ("report", "risk"))
    test = report["test"]["both"]
    recall, alarms = test["Ideation and above"]["noticed"], test["not at risk"]["posts alarmed"]
    bar, apart = report["bar"], report["cross-validation"]["both"]
    met = recall["value"] >= bar["recall"] and 100 * alarms["value"] <= bar["false alarms"]
    parts = [f"{name} {people} people ({posts:,} posts)" for name, (people, posts) in report["people"].items()]
    windows = [
        f"{kind}: {row['together']} of {row['n']} raise the alarm ({row['by a turn']} by a single turn)"
        for kind, row in report["windows"].items()
    ]
    text = _CARD.format(
        parameters=f"{report['parameters']:,}",
        sha256=risk["sha256"],
        turn=f"{risk['thresholds']['turn']:.2f}",
        window=f"{risk['thresholds']['window']:.2f}" if risk["thresholds"]["window"] <= 1 else "none (not used)",
        people="C-SSRS Reddit: " + ", ".join(parts),
        first=_earlier(folder),
        test=table(report["test"]),
        val=table(report["val"]),
        recall=bar["recall"],
        alarms=bar["false alarms"],
        verdict=f"{'Met' if met else 'Not met'} on test: {_percent(recall)} % noticed, {_percent(alarms)} alarms per 100 posts.",
        others=f"{_percent(test['not at risk']['noticed'])} %",
        single=_percent(test["Ideation and above"]["posts alarmed"]),
        curve=_curve(report["curve"]),
        n_apart=apart["Ideation and above"]["people"] + apart["not at risk"]["people"],
        most=risk["config"]["false_alarms"],
        apart_noticed=_percent(apart["Ideation and above"]["noticed"]),
        apart_alarms=_percent(apart["not at risk"]["posts alarmed"]),
        lines=_lines(report["lines"]),
        windows="; ".join(windows),
        everyday=report["everyday"],
        milliseconds=report["milliseconds"],
    )
    (folder / "README.md").write_text(text)
    return folder / "README.md"


def _earlier(folder: Path) -> str:
    """What earlier measurements of the test part gave, where they are kept."""
    kept = [folder / f"{name}_report.json" for name in ("first", "second")]
    told = []
    for report in (json.loads(path.read_text()) for path in kept if path.is_file()):
        test, lines = report["test"]["both"], {part: found["without risk"] for part, found in report["lines"].items()}
        raised = " and ".join(f"{row['alarmed']} of {row['n']} {part}" for part, row in lines.items())
        told.append(
            f"- {report['about']}: {_percent(test['Ideation and above']['noticed'])} % noticed, "
            f"{_percent(test['not at risk']['posts alarmed'])} alarms per 100\n"
            f"  posts of people not at risk; {raised} hard negatives raised the alarm."
        )
    times = ("once", "twice", "three times")[len(told)]
    earlier = ", after these:\n\n" + "\n".join(told) + "\n\nThe last one:" if told else ":"
    return f", measured {times}{earlier}"


def table(found: dict[str, Any]) -> str:
    """Lexicon, head and both by level."""
    lines = ["| by | level | people | noticed, % | posts | alarmed per 100 posts |", "|---|---|---|---|---|---|"]
    for name, levels in found.items():
        for level, row in levels.items():
            lines.append(
                f"| {name} | {level} | {row['people']} | {_percent(row['noticed'])} | {row['posts']} | "
                f"{_percent(row['posts alarmed'])} |"
            )
    return "\n".join(lines)


def _curve(points: list[dict[str, float]]) -> str:
    """The best recall within each ten false alarms per 100 posts."""
    lines = ["| false alarms per 100 posts, at most | people at risk noticed, % |", "|---|---|"]
    for most in range(5, 65, 5):
        within = [point["recall"] for point in points if point["false alarms"] <= most]
        if within:
            lines.append(f"| {most} | {100 * max(within):.0f} |")
    return "\n".join(lines)


def _lines(parts: dict[str, Any]) -> str:
    lines = ["| part | kind | lines | alarmed | with the right category |", "|---|---|---|---|---|"]
    for part, found in parts.items():
        quiet = found["without risk"]
        lines.append(f"| {part} | without risk (hard negatives) | {quiet['n']} | {quiet['alarmed']} | |")
        for category, row in found["with risk"].items():
            lines.append(f"| {part} | {category} | {row['n']} | {row['alarmed']} | {row['named']} |")
    return "\n".join(lines)


def _percent(value: dict[str, float]) -> str:
    return f"{100 * value['value']:.1f} ({100 * value['low']:.1f} to {100 * value['high']:.1f})"
