"""Train the risk screen's head and measure the screen on people it has not seen.

    python -m train.risk --config train/configs/risk_mini.yaml

The C-SSRS levels belong to people, not to posts: a person at risk has to be noticed in some post (multiple-instance
learning), all posts of the others should be quiet. Lexicon, head and thresholds are chosen on train and val alone: the
thresholds by cross-validation over the people of both, as val alone has 50 at risk and its curve is coarse. Test is measured
when the head is written. Writes head, settings, figures and card.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from multimood_core.risk import ASSETS, Reading, RiskHead, RiskScreen, Thresholds, head_scores, pieces_of
from multimood_core.risk_lexicon import Lexicon
from multimood_core.text_encoder import MiniLM
from train.config import load_config, plain_config, run_command
from train.files import write_file
from train.risk_card import write_card
from train.risk_data import Person, everyday, near_misses, read_lines, read_people, read_windows
from train.risk_report import Screened, curve, measure_everyday, measure_lines, measure_people, measure_windows, timing
from train.risk_states import PieceStates

_OWN: Final = 8  # times that a hand-written line counts as much as one of the data
_SHARPNESS: Final = 2.0  # of the soft maximum over a person's pieces: 0 is their mean, infinity the highest


@dataclass(frozen=True, slots=True)
class RiskConfig:
    """What the head's training takes."""

    export: Path = field(default=ASSETS, metadata={"help": "folder of the lexicon, which gets head, settings and card"})
    states: Path = field(
        default=Path("runs/risk/states.safetensors"), metadata={"help": "file that keeps the encoder's states of pieces"}
    )
    hidden: int = field(default=32, metadata={"help": "width between"})
    dropout: float = field(default=0.5, metadata={"help": "of states and of what is between"})
    epochs: int = field(default=20, metadata={"help": "times that each person is seen"})
    lr: float = field(default=1e-3, metadata={"help": "learning rate of AdamW"})
    weight_decay: float = field(default=0.1, metadata={"help": "of AdamW"})
    people: int = field(default=16, metadata={"help": "people in a batch"})
    lines: float = field(default=3.0, metadata={"help": "weight of everyday and hand-written lines beside the people"})
    folds: int = field(default=5, metadata={"help": "of the people of train and val, for the thresholds"})
    # The bar is 25; what lies between is for people who speak otherwise than those at hand.
    false_alarms: float = field(default=20.0, metadata={"help": "alarmed posts per 100 of people not at risk, at most, there"})
    seed: int = field(default=0, metadata={"help": "of order, dropout and first weights"})


def bag(logits: Tensor) -> Tensor:
    """A person's log-odds from those of all their pieces (n,): a soft maximum."""
    return (torch.logsumexp(_SHARPNESS * logits, 0) - torch.log(torch.tensor(float(len(logits))))) / _SHARPNESS


def train(config: RiskConfig, people: Sequence[tuple[Tensor, bool]], lines: Sequence[tuple[Tensor, bool]]) -> RiskHead:
    """The head after the last epoch.

    Args:
        config: the settings.
        people: states (pieces, D) of each person, and whether they are at risk.
        lines: states of single lines, and whether they show risk.
    """
    torch.manual_seed(config.seed)
    rng = random.Random(config.seed)
    head = RiskHead(people[0][0].shape[1], config.hidden, config.dropout).train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    order = list(range(len(people)))
    near = torch.stack([states.mean(0) for states, _ in lines])
    truth = torch.tensor([float(risk) for _, risk in lines])
    weight = torch.where(truth > 0, (truth == 0).sum() / truth.sum().clamp(min=1), torch.ones(()))
    for _ in range(config.epochs):
        rng.shuffle(order)
        for begin in range(0, len(order), config.people):
            batch = [people[i] for i in order[begin : begin + config.people]]
            found = torch.stack([bag(head(states)) for states, _ in batch])
            loss = nn.functional.binary_cross_entropy_with_logits(found, torch.tensor([float(risk) for _, risk in batch]))
            some = torch.tensor(rng.sample(range(len(lines)), min(128, len(lines))))
            beside = nn.functional.binary_cross_entropy_with_logits(head(near[some]), truth[some], weight[some])
            optimizer.zero_grad()
            (loss + config.lines * beside).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return head.eval()


def screened(people: Sequence[Person], states: PieceStates, head: RiskHead, lexicon: Lexicon) -> list[Screened]:
    """Every post of every person, read."""
    found = []
    for person in people:
        readings = []
        for post in person.posts:
            with torch.inference_mode():
                score = float(head_scores(head, states.of(post), pieces_of(post), lexicon).max())
            readings.append(Reading(tuple(lexicon.matches(post)), tuple(lexicon.signs(post)), score, ""))
        found.append(Screened(person.name, person.level, tuple(readings)))
    return found


def cross_validated(
    config: RiskConfig, people: Sequence[Person], lines: Sequence[tuple[Tensor, bool]], states: PieceStates, lexicon: Lexicon
) -> list[Screened]:
    """Everybody's posts as read by a head that learnt from the people of the other folds."""
    folds = [int(hashlib.sha256(f"fold/{person.name}".encode()).hexdigest()[:8], 16) % config.folds for person in people]
    found = []
    for fold in range(config.folds):
        others = [person for person, own in zip(people, folds, strict=True) if own != fold]
        head = train(config, [(_all_states(person, states), person.at_risk) for person in others], lines)
        found += screened([p for p, own in zip(people, folds, strict=True) if own == fold], states, head, lexicon)
    return found


def _all_states(person: Person, states: PieceStates) -> Tensor:
    return torch.cat([states.of(post) for post in person.posts])


def main(argv: Sequence[str] | None = None) -> None:
    config, args = load_config(RiskConfig, argv, __doc__ or "")
    people = read_people()
    parts = {split: [person for person in people if person.split == split] for split in ("train", "val", "test")}
    if args.dry_run:
        print(", ".join(f"{name}: {len(some)} people, {sum(len(p.posts) for p in some)} posts" for name, some in parts.items()))
        return
    encoder = MiniLM(kept=0)
    states, lexicon = PieceStates(config.states, encoder), Lexicon(config.export / "lexicon.yaml")
    tuned = read_lines("tuned")
    quiet = [text for text in everyday("mesc", "train") if not lexicon.matches(text)] + near_misses("train", lexicon)
    states.prepare([post for person in people for post in person.posts])
    risky = [line for name in ("self-harm", "acute crisis") for line in tuned.risks[name]]
    states.prepare([*quiet, *tuned.without, *risky])
    own = [*tuned.without] * _OWN, risky * _OWN
    known = [(_all_states(person, states), person.at_risk) for person in parts["train"]]
    lines = [(states.of(text), risk) for texts, risk in ((quiet, False), (own[0], False), (own[1], True)) for text in texts]
    head = train(config, known, lines)

    apart = cross_validated(config, [*parts["train"], *parts["val"]], lines, states, lexicon)
    points = curve(apart, lexicon)
    thresholds = choose(points, config.false_alarms)
    screen = RiskScreen(lexicon, head, thresholds, encoder)
    report: dict[str, Any] = {
        "people": {name: [len(some), sum(len(p.posts) for p in some)] for name, some in parts.items()},
        "bar": {"recall": 0.9, "false alarms": 25.0},
        "curve": points,
        "cross-validation": measure_people(apart, screen),
        "val": measure_people(screened(parts["val"], states, head, lexicon), screen),
        "test": measure_people(screened(parts["test"], states, head, lexicon), screen),
        "lines": {part: measure_lines(read_lines(part), screen) for part in ("tuned", "held")},
        "windows": measure_windows(read_windows(), screen),
        "everyday": measure_everyday("mesc", "val", screen),
        "milliseconds": timing(screen, list(everyday("mesc", "val"))[:200]),
        "parameters": sum(p.numel() for p in head.parameters()),
    }
    _write(config, head, thresholds, report)
    print(write_card(config.export).read_text())


def choose(points: Sequence[dict[str, float]], false_alarms: float) -> Thresholds:
    """The thresholds that notice most people with so many false alarms at most; of those, the ones with the fewest."""
    fitting = [point for point in points if point["false alarms"] <= false_alarms]
    best = max(fitting or points, key=lambda point: (point["recall"], -point["false alarms"]))
    return Thresholds(best["turn"], best["window"])


def _write(config: RiskConfig, head: RiskHead, thresholds: Thresholds, report: dict[str, Any]) -> None:
    config.export.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().contiguous() for name, value in head.state_dict().items()}
    weights = config.export / "head.safetensors"
    write_file(weights, lambda path: save_file(state, path))
    learnt_with = {key: value for key, value in plain_config(config).items() if key not in ("export", "states")}
    settings = {
        "hidden": config.hidden,
        "encoder": MiniLM.name,
        "thresholds": asdict(thresholds),
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "config": learnt_with,
    }
    for name, content in (("risk", settings), ("report", report)):
        text = json.dumps(content, indent=1) + "\n"
        write_file(config.export / f"{name}.json", lambda path, text=text: path.write_text(text))  # type: ignore[misc]


if __name__ == "__main__":
    run_command(main)
