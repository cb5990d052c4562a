"""The reward model: a score from the fine-tuned model's state at the end of a reply, trained on pairs (paper, Training).

    python -m train.reward_model --config train/configs/reward_model_mini.yaml [--key=value ...] [--resume] [--dry-run]

In a pair the therapist's real reply is preferred to one that the fine-tuned policy wrote and that is unlike it (ROUGE-L
below ``likeness``). The policy's replies are written first (``train.reward_pairs``); ``--resume`` goes on with what is
missing. The part of the dialogues held out gives the pairwise accuracy, beside that of preferring the shorter and the
longer reply.

With ``preferences`` the pairs are people's: what the app's studies export (``train.preferences``), split by dialogue too.

The reward model reads words alone (problem, history, the client's turn) in the prompt that the policy reads, and no labels
of this turn: those would tell who wrote the reply. It starts from the policy's adapter and a score of 0 for everything.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from multimood_core.bootstrap import interval, mean_of, resamples
from multimood_core.errors import DataError, ModelError
from multimood_core.model import MultiMoodForConditionalGeneration
from multimood_core.processor import MultiMoodProcessor
from multimood_core.prompts import HISTORY_TOKEN, RESPONSE_LINE, Piece
from multimood_core.registry import DEFAULT, Checkpoint, save
from multimood_core.reward_scores import situation_of
from multimood_core.rewards import ReplySituation
from train.base import own_device
from train.config import dump_config, load_config, run_command
from train.lineage import lineage
from train.loop import Batch, Loop, LoopConfig
from train.mixture import CORPUS, SftConfig, build_task
from train.plan import Plan, language_model_loss, plan_training
from train.plan_rounds import planned_policy, planned_situations
from train.policy import load_parent, parents_of, read_mixture
from train.preferences import read_preferences
from train.reward_pairs import Pairs, PairWriter, split_pairs
from train.rollouts import Branches, Situations, Writer
from train.turns import data_hash

HEAD: Final = "reward_head.safetensors"


@dataclass(frozen=True, slots=True)
class RewardModelConfig(LoopConfig):
    """Settings of the reward model."""

    out: Path = field(default=Path("runs/reward-model"), metadata={"help": "folder of the run"})
    parent: str = field(default=DEFAULT, metadata={"help": "the policy that writes the replies, and to start from"})
    mixture: Path = field(
        default=Path("train/configs/sft_mini.yaml"), metadata={"help": "SFT settings by which history and media are drawn"}
    )
    root: Path | None = field(default=None, metadata={"help": "where the data sets lie; null: as the mixture says"})
    items: int | None = field(default=None, metadata={"help": "that replies are written to, drawn at random; null: all"})
    preferences: Path | None = field(
        default=None, metadata={"help": "pairs that people chose from (JSON lines of the app); null: the policy's own replies"}
    )
    criterion: str = field(default="overall", metadata={"help": "that people were asked for, with `preferences`"})
    candidates: int = field(default=4, metadata={"help": "replies of the policy to each item"})
    likeness: float = field(default=0.3, metadata={"help": "ROUGE-L from which a reply is too like the real one (paper: 0.3)"})
    temperature: float = field(default=1.0, metadata={"help": "that replies are drawn with"})
    max_tokens: int = field(default=48, metadata={"help": "of a reply"})
    held_out: float = field(default=0.1, metadata={"help": "part of the dialogues that the pairwise accuracy is measured on"})
    pull: float = field(default=0.01, metadata={"help": "of the scores towards a mean of 0, which pairs leave open"})


class RewardModel(nn.Module):
    """A language model that scores replies; ``centre`` and ``spread`` are the mean and deviation over the policy's own."""

    centre: Tensor
    spread: Tensor

    def __init__(self, model: MultiMoodForConditionalGeneration, processor: MultiMoodProcessor, max_tokens: int = 64) -> None:
        super().__init__()
        self.model, self.processor, self.max_tokens = model, processor, max_tokens
        self.head = nn.Linear(model.config.llm_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    def prompt(self, situation: ReplySituation) -> list[int]:
        """The ids (L,) that stand before a reply; voice and face are missing in them."""
        ids = self.processor.encode_prompt(situation.client, situation.history, situation.context)
        ids = self.processor.expand(ids, {HISTORY_TOKEN: max(1, len(situation.history))})
        return ids + self.processor.encode_pieces([Piece(RESPONSE_LINE)])

    def reply(self, text: str) -> list[int]:
        """A reply's ids, closed; the end of a long one."""
        return [*self.processor.encode_value(text)[-self.max_tokens + 1 :], self.processor.tokenizer.eos_token_id]

    def scores(self, situation: ReplySituation, replies: Sequence[str]) -> Tensor:
        """A score (n,) for each of several replies to one situation, which is read once."""
        embedding = self.model.get_input_embeddings()
        device = embedding.weight.device
        units = [token for turn in situation.history for token in self.processor.encode_history_turn(turn)]
        media = {"history_ids": torch.tensor([units], device=device)} if units else {}
        with torch.no_grad():
            prefix = self.model.model.embed(torch.tensor([self.prompt(situation)], device=device), **media)[0]
        branches = Branches.of(prefix, [self.reply(text) for text in replies], embedding)
        # The state that predicts the end has read the whole reply.
        ends = torch.tensor(branches.lengths, device=device).cumsum(0) - 1
        states = branches.states(self.model)[ends]
        with torch.autocast(states.device.type, enabled=False):
            return self.head(states.float())[:, 0]


class RewardModelTerm:
    """A trained reward model as a term of a reward: how far above the policy's own replies a reply stands, in (0, 1)."""

    name: Final = "reward_model"

    def __init__(self, model: RewardModel) -> None:
        self.model = model.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path, mixture: SftConfig) -> RewardModelTerm:
        """Read what the stage wrote, on the base that ``mixture`` names.

        Raises:
            ModelError: the folder holds no reward model.
        """
        if not (folder / HEAD).is_file():
            raise ModelError(f"Expected a reward model ({HEAD}) in {folder}. Train one with python -m train.reward_model.")
        checkpoint = load_parent(folder, mixture)
        model = RewardModel(checkpoint.model, checkpoint.processor)
        state = load_file(folder / HEAD)
        model.head.load_state_dict({"weight": state["weight"], "bias": state["bias"]})
        model.centre, model.spread = state["centre"], state["spread"]
        return cls(model.to(own_device()))

    @torch.no_grad()
    def __call__(self, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[float | None]:
        """Neighbours that answer the same situation are scored together."""
        values: list[float | None] = []
        begin = 0
        while begin < len(replies):
            end = begin
            while end < len(replies) and situations[end] is situations[begin]:
                end += 1
            found = self.model.scores(situations[begin], replies[begin:end])
            values += ((found - self.model.centre) / self.model.spread).sigmoid().tolist()
            begin = end
        return values


class RewardTask:
    """Pairs as samples, and their loss: -log sigmoid of the real reply's lead (Bradley and Terry 1952)."""

    def __init__(
        self, config: RewardModelConfig, model: RewardModel, situations: Mapping[int, ReplySituation], pairs: Sequence[Pairs]
    ) -> None:
        self.config, self.model, self.situations = config, model, situations
        self.pairs = [one for one in pairs if one.rejected]
        self.lengths = [self._length(one) for one in self.pairs]

    def _length(self, pairs: Pairs) -> int:
        situation = self.situations[pairs.index]
        replies = [situation.reference or "", *pairs.rejected]
        return len(self.model.prompt(situation)) + sum(len(self.model.reply(text)) for text in replies)

    def leads(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """The real reply's lead over each of the others (n,), and all scores (1 + n,)."""
        situation = self.situations[pairs.index]
        scores = self.model.scores(situation, [situation.reference or "", *pairs.rejected])
        return scores[0] - scores[1:], scores

    def loss(self, batch: Batch, rng: random.Random) -> Mapping[str, Tensor]:
        losses, right = [], []
        for index in batch:
            leads, scores = self.leads(self.pairs[index])
            losses.append(-F.logsigmoid(leads).mean() + self.config.pull * scores.square().mean())
            right.append((leads > 0).float().mean())
        return {"loss": torch.stack(losses).mean(), "accuracy": torch.stack(right).mean()}

    @torch.no_grad()
    def measure(self) -> dict[str, Any]:
        """Pairwise accuracy with a 95 % interval over dialogues, beside what length alone would give."""
        right, shorter = [], []
        for one in tqdm(self.pairs, desc="held out"):
            right.append(float((self.leads(one)[0] > 0).float().mean()))
            real = len((self.situations[one.index].reference or "").split())
            lengths = [len(text.split()) for text in one.rejected]
            shorter.append(sum(0.5 * (real == n) + (real < n) for n in lengths) / len(lengths))
        found = interval(mean_of(right), resamples([one.dialogue for one in self.pairs]))
        return {
            "items": len(self.pairs),
            "pairs": sum(len(one.rejected) for one in self.pairs),
            "accuracy": found.value,
            "accuracy_interval": (found.low, found.high),
            "accuracy_of_the_shorter": sum(shorter) / len(shorter),
            "accuracy_of_the_longer": 1 - sum(shorter) / len(shorter),
        }


@torch.no_grad()
def standardise(task: RewardTask, most: int = 200) -> None:
    """Set the model's ``centre`` and ``spread`` from its scores of the policy's own replies."""
    scores = torch.cat([task.leads(one)[1][1:] for one in task.pairs[:most]])
    task.model.centre.copy_(scores.mean())
    task.model.spread.copy_(scores.std() + 1e-6)


def chosen_items(config: RewardModelConfig, count: int) -> list[int]:
    """Which of ``count`` items replies are written to."""
    return random.Random(config.seed).sample(range(count), config.items or count)


def write_pairs(config: RewardModelConfig, resume: bool, policy: Checkpoint, situations: Situations) -> list[Pairs]:
    """The pairs of ``items`` items drawn at random; every process writes its share and reads them all.

    Raises:
        DataError: there are pairs already and this is no ``--resume``, or they were made under other settings.
    """
    state = PartialState()
    if not resume and next(config.out.glob("pairs-*.jsonl"), None):
        raise DataError(f"{config.out} holds a run already: --resume goes on with it, --out=FOLDER starts another.")
    state.wait_for_everyone()
    config.out.mkdir(parents=True, exist_ok=True)
    indices = chosen_items(config, len(situations))
    writer = Writer(
        policy.model, policy.processor, policy.calibration, "reply", config.max_tokens, config.temperature
    )
    settings = {
        "policy": policy.id.sha256,
        "likeness": config.likeness,
        "candidates": config.candidates,
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
        "seed": config.seed,
    }
    shared = PairWriter(config.out, writer, situations, settings, state.process_index, state.num_processes)
    shared.write(indices, config.candidates, config.likeness, config.seed)
    state.wait_for_everyone()
    wanted = set(indices)
    return [one for one in shared.read() if one.index in wanted]


@dataclass(frozen=True, slots=True)
class Material:
    """What is learnt from: the pairs, the situation that each answers, by its ``index``, and the data's SHA-256."""

    pairs: list[Pairs]
    situations: Mapping[int, ReplySituation]
    sha256: str


def peoples_material(path: Path, criterion: str) -> Material:
    """Pairs that people chose from; the preferred reply is the situation's reference."""
    chosen = read_preferences(path, criterion)
    pairs = [Pairs(index, one.item, (one.rejected,)) for index, one in enumerate(chosen)]
    return Material(pairs, {i: one.situation for i, one in enumerate(chosen)}, hashlib.sha256(path.read_bytes()).hexdigest())


def policys_material(
    config: RewardModelConfig, resume: bool, policy: Checkpoint, situations: Situations, data: Path
) -> Material:
    """Real replies against the policy's own, which are written first."""
    pairs = write_pairs(config, resume, policy, situations)
    answered = {one.index: situation_of(situations.task.items[one.index]) for one in pairs}
    return Material(pairs, answered, data_hash([CORPUS], "train", data))


def plan(config: RewardModelConfig, args: argparse.Namespace) -> Plan:
    """What the run takes; replies that are not written yet are counted as long as the therapists'."""
    mixture = read_mixture(config.mixture, config.root)
    model, processor = planned_policy(mixture)
    scorer = RewardModel(model, processor)
    if config.preferences:
        chosen = read_preferences(config.preferences, config.criterion)
        pairs = [(one.situation, [one.situation.reference or "", one.rejected]) for one in chosen]
        written = 0
    else:
        situations = planned_situations(mixture, model, processor)
        answered = [situation_of(situations.task.items[index]) for index in chosen_items(config, len(situations))]
        pairs = [(one, [one.reference or ""] * (1 + config.candidates)) for one in answered]
        written = config.candidates * len(pairs)
    prompts = [len(scorer.prompt(situation)) for situation, _ in pairs]
    replies = [sum(len(scorer.reply(text)) for text in texts) for _, texts in pairs]
    kept = range(max(1, round(len(pairs) * (1 - config.held_out))))
    tokens = {"prompt": sum(prompts) / len(prompts), "replies": sum(replies) / len(replies)}
    shared = {one.name: getattr(config, one.name) for one in dataclasses.fields(LoopConfig)}

    def loss(rows: int, width: int) -> Callable[[], Tensor]:
        return language_model_loss(model, rows, width, len(pairs[0][1]))

    note = f"{written:,} replies are written before, and pairs held out are scored after it, in time that is not counted here"
    lengths = [prompts[i] + replies[i] for i in kept]
    return plan_training(
        dataclasses.replace(mixture, **shared), args, "reward_model", scorer, lengths, loss, tokens, notes=[note]
    )


def main(argv: Sequence[str] | None = None) -> None:
    config, args = load_config(RewardModelConfig, argv, __doc__ or "")
    if args.dry_run:
        print(plan(config, args).table())
        return
    mixture = read_mixture(config.mixture, config.root)
    policy = load_parent(config.parent, mixture)
    if config.preferences:
        found = peoples_material(config.preferences, config.criterion)
    else:
        situations = Situations(build_task(mixture, policy.model, policy.processor))
        found = policys_material(config, args.resume, policy, situations, mixture.data)
    model = RewardModel(policy.model, policy.processor)
    learnt, apart = (RewardTask(config, model, found.situations, part) for part in split_pairs(found.pairs, config.held_out))
    if not learnt.pairs or not apart.pairs:
        raise DataError(
            f"Expected pairs to learn from and pairs of other dialogues held out, got {len(learnt.pairs)} and "
            f"{len(apart.pairs)} items with pairs. Collect more of them, or change held_out ({config.held_out})."
        )
    loop = Loop(config, model, learnt.lengths, learnt.loss, config.out)
    model.train()
    loop.run(args.resume and (config.out / "state").exists())
    model.eval()
    standardise(learnt)
    report = apart.measure()
    print(json.dumps(report))
    told = lineage("reward_model", config, parents_of(policy), found.sha256, loop.step)

    def fill(folder: Path) -> None:
        save(folder, policy.model, policy.calibration, told)
        state = model.head.state_dict() | {"centre": model.centre, "spread": model.spread}
        save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, folder / HEAD)
        (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        dump_config(config, folder / "config.yaml")

    loop.finish(config.out / "final", fill)


if __name__ == "__main__":
    run_command(main)
