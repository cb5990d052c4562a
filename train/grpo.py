"""Group relative policy optimisation with video, audio and history, on TRL's trainer (paper, eq. 5-12).

    python -m train.grpo --config train/configs/grpo_mini.yaml [--key=value ...] [--resume] [--dry-run]

TRL computes what the paper's equations say: a completion's advantage is its reward less its group's mean, over the group's
deviation; the loss is the clipped ratio's with k3's estimate of the KL divergence to the reference, averaged over each
completion and then over completions. Ours are the completions (``train.rollouts``: media reach the policy, and what a
group shares is computed once), their likelihoods (``Branches``), and the loop, which is every stage's.

TRL's loss forwards the inputs it knows and drops all others, so private methods of TRL 1.16 are replaced here. The
requirements pin that version; a test fails where sound, picture or history no longer reach the loss.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from multimood_core.errors import DataError
from multimood_core.registry import Checkpoint
from train.config import load_config, run_command
from train.loop import Batch, precision_on
from train.plan_rounds import plan_rounds
from train.policy import PolicyConfig, Rewarder, mean_parts, reference, totals
from train.rollouts import Branches, Group, Situations, Writer, line_divergence, log_probabilities
from train.rounds import Built, run_stage

_REFERENCE_PASS: Final = "reference"  # stands where TRL expects a second model
_LOGGED: Final = {
    "reward": "reward",
    "reward_std": "reward_spread",
    "frac_reward_zero_std": "groups_without_spread",
    "kl": "kl",
    "entropy": "entropy",
    "clip_ratio/region_mean": "clipped",
    "completions/mean_length": "length",
    "completions/clipped_ratio": "cut",
}


@dataclass(frozen=True, slots=True)
class GrpoConfig(PolicyConfig):
    """Settings of GRPO."""

    out: Path = field(default=Path("runs/grpo"), metadata={"help": "folder of the run"})


class MultiMoodGRPOTrainer(GRPOTrainer):
    """TRL's trainer with our completions and likelihoods; ``train.rounds`` drives it.

    Args:
        config: the run's settings.
        policy: with a reference adapter (``train.policy.add_reference``).
        situations: the prompts.
        reward: scores the replies.
    """

    def __init__(self, config: GrpoConfig, policy: Checkpoint, situations: Situations, reward: Rewarder) -> None:
        self.config, self.situations, self.reward = config, situations, reward
        self.writer = Writer(
            policy.model, policy.processor, policy.calibration, config.completion, config.max_tokens, config.temperature
        )
        self._groups: list[Group] = []
        self._collected: dict[str, Any] = {}
        self._lines: list[Tensor] = []  # the reference's states over each group's labels
        self._drift: Tensor | None = None  # of the labels' lines, with its gradient
        if config.lines_beta and not config.beta:
            raise DataError(f"Expected a beta above 0 beside lines_beta {config.lines_beta}: without it no reference is read.")
        with warnings.catch_warnings():  # all that TRL calls experimental here is our function for completions
            warnings.filterwarnings("ignore", message="You are using 'rollout_func'")
            super().__init__(
                model=policy.model,
                reward_funcs=self._rewards,
                args=_arguments(config),
                train_dataset=Dataset.from_dict({"prompt": [str(i) for i in range(len(situations))]}),
                processing_class=policy.processor.tokenizer,
                rollout_func=self._complete,
            )
        # With a beta from the start TRL would load a second model; the reference is an adapter of this one.
        self.beta, self.ref_model = config.beta, cast(Any, _REFERENCE_PASS if config.beta else None)
        self.current_gradient_accumulation_steps = 1

    def _send_telemetry(self) -> None:
        """Nothing of a run leaves the machine."""

    # -- a round ---------------------------------------------------------------------------------------------------

    def collect(self, batch: Batch, step: int) -> Mapping[str, float]:
        """Completions of a batch of items with advantages and the reference's likelihoods; what TRL measured of them."""
        self.state.global_step = step
        rows: list[dict[str, Any]] = [{"prompt": str(index)} for index in batch for _ in range(self.config.group)]
        self._collected = self._generate_and_score_completions(rows)
        return self._measured()

    def loss(self, batch: Batch, rng: random.Random) -> Mapping[str, Tensor]:
        """The loss on what was collected."""
        loss, found = self._compute_loss(self.model, self._collected), {}
        if self.config.lines_beta and self._drift is not None:
            loss, found = loss + self.config.lines_beta * self._drift, {"lines_kl": self._drift.detach()}
        return {"loss": loss} | found | {name: loss.new_tensor(value) for name, value in self._measured().items()}

    def _measured(self) -> dict[str, float]:
        """TRL's measures since the last call, those that are a number, and the reward's parts."""
        found = {name: values[-1] for name, values in self._metrics["train"].items() if values}
        self._metrics["train"].clear()
        kept = {_LOGGED.get(name, name): value for name, value in found.items() if name in _LOGGED or name.startswith("part/")}
        return {name: value for name, value in kept.items() if value == value}  # all rewards missing: no mean

    # -- completions and rewards -----------------------------------------------------------------------------------

    def _complete(self, prompts: Sequence[str], trainer: GRPOTrainer) -> dict[str, Any]:
        """TRL's rows, each prompt ``group`` times in a row -> completions, and what their rewards need."""
        size, seed = self.config.group, f"{self.config.seed}/{self.state.global_step}"
        names = [f"{seed}/{index}" for index in prompts[::size]]
        drawn = [
            self.situations.draw(int(index), random.Random(name))
            for index, name in zip(prompts[::size], names, strict=True)
        ]
        self._groups = self.writer.write(drawn, size, [f"{name}/replies" for name in names])
        return {
            "prompt_ids": [group.prompt.ids for group in self._groups for _ in group.completions],
            "completion_ids": [list(completion) for group in self._groups for completion in group.completions],
            "logprobs": None,
            "situation": [group.prompt.situation for group in self._groups for _ in group.replies],
            "reply": [reply for group in self._groups for reply in group.replies],
        }

    def _rewards(self, situation: list[Any], reply: list[str], log_metric: Any, **_: Any) -> list[float | None]:
        rewards = self.reward(situation, reply)
        for name, value in mean_parts(rewards).items():
            log_metric(f"part/{name}", value)
        return totals(rewards)

    # -- likelihoods -----------------------------------------------------------------------------------------------

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **others: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-probability and entropy (rows, ``logits_to_keep``) of the completions' tokens, each group's prompt read once."""
        if model is _REFERENCE_PASS:
            with reference(self.writer.model):
                rows, self._lines = self._read(self.model)
        else:
            rows, lines = self._read(model)
            if torch.is_grad_enabled() and self.config.lines_beta:
                pairs = zip(self._lines, lines, strict=True)
                self._drift = torch.stack([line_divergence(self.writer.model.lm_head, *pair) for pair in pairs]).mean()
        logps, entropies = (
            torch.stack([F.pad(row[part], (0, logits_to_keep - len(row[part]))) for row in rows]) for part in (0, 1)
        )
        return logps, entropies if compute_entropy else None, None

    def _read(self, model: Any) -> tuple[list[tuple[Tensor, ...]], list[Tensor]]:
        """Log-probability and entropy (n,) of each completion's tokens, and each group's states over its labels' lines."""
        embedding, head = self.writer.model.get_input_embeddings(), self.writer.model.lm_head
        rows: list[tuple[Tensor, ...]] = []
        lines: list[Tensor] = []
        for group in self._groups:
            branches = Branches.of(group.prefix, group.completions, embedding, group.lead)
            lead, states = branches.read(model)
            found = log_probabilities(head, states, branches.targets, self.writer.barred, self.config.temperature)
            rows += zip(*map(branches.split, found), strict=True)
            lines.append(lead)
        return rows, lines


def _arguments(config: GrpoConfig) -> GRPOConfig:
    """TRL's settings: the paper's loss, and nothing of what our loop does itself."""
    precision = precision_on("cuda" if torch.cuda.is_available() else "cpu", config.precision)
    return GRPOConfig(
        output_dir=str(config.out),
        loss_type="grpo",
        scale_rewards="group",
        beta=0.0,
        use_bias_correction_kl=False,  # TRL's default weighs the divergence by the ratio, the paper does not
        epsilon=config.clip,
        num_generations=config.group,
        per_device_train_batch_size=config.group,
        steps_per_generation=1,
        num_iterations=config.updates,
        temperature=config.temperature,
        max_completion_length=config.max_tokens,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=not torch.cuda.is_available(),
        seed=config.seed,
        activation_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )


def main(argv: Sequence[str] | None = None) -> None:
    config, args = load_config(GrpoConfig, argv, __doc__ or "")
    if args.dry_run:
        # As the reference, and as the policy that wrote them where it moves before the last update.
        print(plan_rounds("grpo", config, args, readings=bool(config.beta) + (config.updates > 1)).table())
        return
    run_stage("grpo", config, lambda policy, *parts: Built(policy.model, MultiMoodGRPOTrainer(config, policy, *parts)), args)


if __name__ == "__main__":
    run_command(main)
