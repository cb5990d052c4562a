"""The card of the trained judge, from its figures, so that none of them is typed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

BAR: Final = 0.4  # Cohen's kappa that the paper's annotators had to reach before they were let to judge

_CARD: Final = """# The local judge: empathy of a reply, without a network

Small heads on MiniLM's frozen token states (all-MiniLM-L6-v2, Apache-2.0, not included): {parameters} parameters,
SHA-256 of `heads.safetensors` `{sha256}`.
It gives r_trust where no language model is at hand to judge.

**Research use only**: the data it learnt from allow no other. English text. It judges words on a page; whether a reply is
right for a person is for a professional to say.

## What it judges
One of the paper's seven dimensions: **empathy**, on EPITOME's three scales (emotional reaction, interpretation,
exploration; levels 0 to 2). A sentence's empathy is the mean of its three expected levels, in units of {top} (what one
training reply in a hundred exceeds); r_trust is the mean over the sentences (paper, eq. 6). It reads the reply alone, not
what the client said.

**Not judged**: truthfulness, safety, fairness, privacy, reliability, ethical guidance. No data at hand label replies to
clients in these, so r_trust of this judge is empathy alone, and says nothing about the others; the endpoint judge has
all seven. A reply can be unsafe and score high here.

## Data
EPITOME (Sharma et al. 2020; academic use): {replies} replies to posts on Reddit, split by post:
{counts}.
A sentence has the reply's level where it holds the words that annotators marked, else 0.

## Agreement with people, on posts it has not seen
95 % intervals from resampling posts. The paper lets annotators judge from a kappa of {bar} on. Held-out (test):

{test}

Whole replies: the strongest sentence counts, as for the annotators. Rated twice by people: {twice}.

Against the sum of the people's three levels: r_trust (mean over the sentences, eq. 6) Spearman {mean}; the sum of
each scale's strongest sentence, for comparison, {strongest}; n = {n}. The mean favours short replies.

## Checked on other data
{checks}

The first four are linear readings of the same states with five folds. They can be learnt or not, but none of them is a
judgement of a reply, for the reason beside it; so the judge has no part of them.

## How it was trained
`{command}`; choices were made on the validation part alone.
"""


def write_card(folder: Path) -> Path:
    """Write README.md beside ``report.json`` and ``judge.json``."""
    report, judge = (json.loads((folder / f"{name}.json").read_text()) for name in ("report", "judge"))
    heads = folder / "heads.safetensors"
    twice = [f"{scale} {100 * row['equal']:.0f} % equal (n = {row['n']})" for scale, row in report["twice rated"].items()]
    counts = [f"{part} {replies:,} ({said:,} sentences)" for part, (replies, said) in report["counts"].items()]
    text = _CARD.format(
        parameters=f"{report['parameters']:,}",
        sha256=hashlib.sha256(heads.read_bytes()).hexdigest(),
        top=judge["top"],
        replies=f"{sum(replies for replies, _ in report['counts'].values()):,}",
        counts=", ".join(counts),
        bar=BAR,
        test=agreement_table(report["test"]),
        twice=", ".join(twice),
        mean=_interval(report["overall"]["mean"]),
        strongest=_interval(report["overall"]["strongest"]),
        n=report["overall"]["n"],
        checks=_checks(report["checks"]),
        command="python -m train.local_judge --config train/configs/local_judge_mini.yaml",
    )
    (folder / "README.md").write_text(text)
    return folder / "README.md"


def agreement_table(found: dict[str, Any]) -> str:
    """Scales by row, single sentences and whole replies."""
    lines = ["| scale | of | n | Spearman | quadratic kappa | accuracy | commonest level |", "|---|---|---|---|---|---|---|"]
    for scale, kinds in found.items():
        for kind, row in kinds.items():
            figures = " | ".join(_interval(row[key]) for key in ("spearman", "kappa", "accuracy"))
            lines.append(f"| {scale} | {kind} | {row['n']} | {figures} | {row['majority']:.3f} |")
    return "\n".join(lines)


def _checks(rows: list[dict[str, Any]]) -> str:
    lines = ["| what | data | n | statistic | value | note |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {r['what']} | {r['data']} | {r['n']} | {r['statistic']} | {_interval(r['value'])} | {r['follows']} |" for r in rows
    ]
    return "\n".join(lines)


def _interval(value: dict[str, float]) -> str:
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
