"""Train the judge that needs no network, and measure it against people it has not seen.

    python -m train.local_judge --config train/configs/local_judge_mini.yaml

EPITOME's replies are split by post. The heads learn from single sentences: a sentence has the level of the reply on a
scale where it holds the words that the annotators marked as showing it. Writes heads, settings, figures and card.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from multimood_core.bootstrap import interval, resamples
from multimood_core.local_judge import LEVELS, SCALES, EmpathyHeads, LocalJudge, pad_tokens
from multimood_core.text_encoder import MiniLM, TextStates
from train.config import load_config, plain_config, run_command
from train.empathy_data import RatedReply, read_epitome, twice_rated
from train.files import write_file
from train.judge_agreement import HumanAgreement, human_agreement, spearman
from train.judge_card import write_card
from train.judge_checks import Check, counsellor_checks, statement_checks
from train.loop import Loop, LoopConfig

_TOP: Final = 99  # percentile of real replies' empathy that counts as 1
_CHUNK: Final = 256  # texts encoded at a time


@dataclass(frozen=True, slots=True)
class LocalJudgeConfig(LoopConfig):
    """What the judge's training takes."""

    out: Path = field(default=Path("runs/local-judge"), metadata={"help": "folder of the run"})
    export: Path = field(default=Path("assets/judges/mini"), metadata={"help": "folder that gets the heads and their card"})
    heads: int = field(default=4, metadata={"help": "ways of attending to a sentence, for each scale"})
    hidden: int = field(default=64, metadata={"help": "width of what is attended to"})
    dropout: float = field(default=0.3, metadata={"help": "of token states and of what was attended to"})


@dataclass(frozen=True, slots=True)
class Sentences:
    """Every sentence of some replies: its states, its level on each scale (-1 where none is known), and its reply."""

    replies: Sequence[RatedReply]
    states: Sequence[TextStates]
    levels: Tensor
    owners: np.ndarray

    @classmethod
    def of(cls, replies: Sequence[RatedReply], encoder: MiniLM) -> Sentences:
        texts = [sentence for reply in replies for sentence in reply.sentences]
        states: list[TextStates] = []
        for begin in tqdm(range(0, len(texts), _CHUNK), desc="token states"):
            states += encoder(texts[begin : begin + _CHUNK])
        levels = [
            [reply.sentence_levels[scale][i] if scale in reply.sentence_levels else -1 for scale in SCALES]
            for reply in replies
            for i in range(len(reply.sentences))
        ]
        owners = np.repeat(np.arange(len(replies)), [len(reply.sentences) for reply in replies])
        return cls(replies, states, torch.tensor(levels), owners)


@dataclass(frozen=True, slots=True)
class EmpathyTask:
    """Cross-entropy of the levels of single sentences, the scales added up."""

    heads: EmpathyHeads
    data: Sentences

    def loss(self, batch: Sequence[int], rng: random.Random) -> Mapping[str, Tensor]:
        logits = self.heads(*pad_tokens([self.data.states[i] for i in batch]))
        levels = self.data.levels[list(batch)]
        known = (levels >= 0).sum(0)
        losses = [
            nn.functional.cross_entropy(logits[:, i], levels[:, i], ignore_index=-1, reduction="sum") / max(1, int(known[i]))
            for i in range(len(SCALES))
        ]
        return {"loss": torch.stack(losses).sum()}


def reply_levels(probabilities: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A reply's level and its finer score from its sentences' probabilities (n, levels): its strongest sentence counts.

    A reply is as empathic as its most empathic sentence: that is how EPITOME's annotators read. The level is the highest
    that some sentence reaches with a probability above one half; the score is the sum of those highest probabilities.
    """
    reached = 1 - probabilities.cumsum(1)[:, :-1]  # (n, levels - 1): at least weak, at least strong
    best = np.stack([reached[owners == reply].max(0) for reply in range(owners.max() + 1)])
    return (best > 0.5).sum(1), best.sum(1)


def measure(judge: LocalJudge, data: Sentences) -> dict[str, dict[str, HumanAgreement]]:
    """Scale -> agreement on single sentences and on whole replies."""
    probabilities = judge.probabilities([sentence for reply in data.replies for sentence in reply.sentences]).numpy()
    posts = [reply.post_id for reply in data.replies]
    found = {}
    for i, scale in enumerate(SCALES):
        mine = probabilities[:, i]
        known = (data.levels[:, i] >= 0).numpy()
        single = human_agreement(
            data.levels[:, i].numpy()[known],
            mine[known].argmax(1),
            mine[known] @ np.arange(LEVELS),
            [posts[owner] for owner in data.owners[known]],
        )
        level, score = reply_levels(mine, data.owners)
        whole = human_agreement([reply.levels[scale] for reply in data.replies], level, score, posts)
        found[scale] = {"sentence": single, "reply": whole}
    return found


def overall(judge: LocalJudge, data: Sentences) -> dict[str, Any]:
    """What a reply's judged empathy has to do with the sum of the people's three levels (0-6).

    ``mean`` is r_trust: over sentences and scales (paper, eq. 6). ``strongest`` adds up each scale's strongest sentence, which
    is nearer to how the annotators read and is given for comparison.
    """
    levels = judge.expected_levels([s for reply in data.replies for s in reply.sentences]).numpy()
    mean = np.bincount(data.owners, levels.mean(1)) / np.bincount(data.owners)
    strongest = np.array([levels[data.owners == reply].max(0).sum() for reply in range(len(data.replies))])
    human = np.array([sum(reply.levels.values()) for reply in data.replies])
    weights = resamples([reply.post_id for reply in data.replies])
    scores = {"mean": mean, "strongest": strongest}
    return {"n": len(human), **{name: asdict(interval(spearman(human, score), weights)) for name, score in scores.items()}}


def train(config: LocalJudgeConfig, data: Sentences, encoder: MiniLM, resume: bool = False) -> LocalJudge:
    """The judge after the last step, with ``top`` from the replies that it learnt from."""
    torch.manual_seed(config.seed)
    heads = EmpathyHeads(encoder.hidden_size, config.heads, config.hidden, config.dropout)
    task = EmpathyTask(heads, data)
    lengths = [len(state.tokens) for state in data.states]
    Loop(config, heads, lengths, task.loss, config.out).run(resume)
    judge = LocalJudge(heads, 1.0, encoder)
    levels = judge.expected_levels([s for reply in data.replies for s in reply.sentences]).mean(1).numpy()
    means = np.bincount(data.owners, levels) / np.bincount(data.owners)
    judge.top = round(float(np.percentile(means, _TOP)), 4)
    return judge


def main(argv: Sequence[str] | None = None) -> None:
    config, args = load_config(LocalJudgeConfig, argv, __doc__ or "")
    splits: dict[str, list[RatedReply]] = {"train": [], "val": [], "test": []}
    for reply in read_epitome():
        splits[reply.split].append(reply)
    if args.dry_run:
        print(", ".join(f"{name}: {len(replies)} replies" for name, replies in splits.items()))
        return
    encoder = MiniLM()
    data = {name: Sentences.of(replies, encoder) for name, replies in splits.items()}
    judge = train(config, data["train"], encoder, args.resume)
    checks: list[Check] = [*statement_checks(encoder), *counsellor_checks(judge)]
    report: dict[str, Any] = {
        "counts": {name: [len(d.replies), len(d.states)] for name, d in data.items()},
        "val": _plain(measure(judge, data["val"])),
        "test": _plain(measure(judge, data["test"])),
        "overall": overall(judge, data["test"]),
        "parameters": sum(p.numel() for p in judge.heads.parameters()),
        "twice rated": twice_rated(),
        "checks": [asdict(check) for check in checks],
    }
    settings = {"heads": config.heads, "hidden": config.hidden, "top": judge.top, "encoder": encoder.name}
    learnt_with = {key: value for key, value in plain_config(config).items() if key not in ("out", "export")}
    config.export.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().contiguous() for name, value in judge.heads.state_dict().items()}
    write_file(config.export / "heads.safetensors", lambda path: save_file(state, path))
    for name, content in (("judge", settings | {"config": learnt_with}), ("report", report)):
        text = json.dumps(content, indent=1) + "\n"
        write_file(config.export / f"{name}.json", lambda path, text=text: path.write_text(text))  # type: ignore[misc]
    print(write_card(config.export))


def _plain(found: Mapping[str, Mapping[str, HumanAgreement]]) -> dict[str, Any]:
    return {scale: {of: asdict(value) for of, value in values.items()} for scale, values in found.items()}


if __name__ == "__main__":
    run_command(main)
