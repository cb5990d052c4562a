"""What GRPO and PPO share: their settings, the policy with its reference, and the reward.

Policy and reference are one model with two LoRA adapters: a copy of the parent's adapter stays frozen beside the one that
learns, so there is no second copy of the language model.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, cast

from torch import nn

from multimood_core.errors import DataError, ModelError
from multimood_core.model import MultiMoodForConditionalGeneration
from multimood_core.registry import ADAPTER, DEFAULT, Checkpoint, load
from multimood_core.rewards import ReplySituation, Reward, RewardFunction, embedded_rewards
from train.base import EMBEDDED, build_base, own_device
from train.config import load_config
from train.mixture import SftConfig
from train.paper_reward import RewardConfig
from train.rollouts import COMPLETIONS

REFERENCE: Final = "reference"  # the frozen adapter
WHOLE_MODEL: Final = (
    "GRPO and PPO write with the whole model in each process, but this launch splits it. Launch with "
    "train/configs/accelerate/multi_gpu.yaml; nf4 and checkpointing save the memory."
)
Rewarder = Callable[[Sequence[ReplySituation], Sequence[str]], Sequence[Reward]]


@dataclass(frozen=True, slots=True)
class PolicyConfig(RewardConfig):
    """Settings that GRPO and PPO share."""

    out: Path = field(default=Path("runs/policy"), metadata={"help": "folder of the run"})
    batch_tokens: int = field(default=0, metadata={"help": "not read here: `prompts` says how much a step holds"})
    lr: float = field(default=1e-5, metadata={"help": "peak learning rate (paper: 1e-5)"})
    parent: str = field(default=DEFAULT, metadata={"help": "the checkpoint to start from, which is the reference too"})
    mixture: Path = field(
        default=Path("train/configs/sft_mini.yaml"), metadata={"help": "SFT settings by which history and media are drawn"}
    )
    root: Path | None = field(default=None, metadata={"help": "where the data sets lie; null: as the mixture says"})
    completion: str = field(default="reply", metadata={"help": f"what the policy is rewarded for: {' or '.join(COMPLETIONS)}"})
    prompts: int = field(default=4, metadata={"help": "prompts a step, over all processes"})
    group: int = field(default=4, metadata={"help": "completions of each prompt (paper: G = 4)"})
    updates: int = field(default=1, metadata={"help": "optimizer steps on the same completions"})
    max_tokens: int = field(default=48, metadata={"help": "of a completion; MESC's replies have 17 on average"})
    temperature: float = field(default=1.0, metadata={"help": "that completions are drawn with"})
    beta: float = field(default=1.12, metadata={"help": "weight of the KL divergence to the reference (paper: 1.12)"})
    lines_beta: float = field(
        default=0.0, metadata={"help": "weight of the divergence over the labels' lines, where the completion is the reply"}
    )
    clip: float = field(default=0.2, metadata={"help": "the probability ratio's clipping range (paper: 0.2)"})


def read_mixture(path: Path, root: Path | None = None) -> SftConfig:
    """The settings of supervised fine-tuning from YAML; ``root`` says where the data sets lie, if not as they say."""
    mixture = load_config(SftConfig, ["--config", str(path)])[0]
    return replace(mixture, root=root) if root else mixture


def load_parent(name_or_dir: str | Path, mixture: SftConfig) -> Checkpoint:
    """A fine-tuned checkpoint on the base that ``mixture`` names, its adapter alone trained, and in float32.

    Raises:
        DataError: the checkpoint has no adapter to train.
    """
    checkpoint = load(name_or_dir, build=lambda config, dtype: build_base(mixture, config))
    if not getattr(checkpoint.model, "_hf_peft_config_loaded", False):
        raise DataError(f"Expected a checkpoint with an adapter, but {checkpoint.folder} has none. Run train.sft first.")
    cast(nn.Module, checkpoint.model).to(own_device())
    train_adapter(checkpoint.model)
    return checkpoint


def load_policy(name_or_dir: str | Path, mixture: SftConfig) -> Checkpoint:
    """The parent with its adapter in two copies: one that learns, and the frozen reference."""
    checkpoint = load_parent(name_or_dir, mixture)
    add_reference(checkpoint.model)
    return checkpoint


def train_adapter(model: MultiMoodForConditionalGeneration) -> None:
    """Freeze all but the adapter, which is trained in float32."""
    for name, parameter in model.named_parameters():
        learns = f".{ADAPTER}." in name
        parameter.requires_grad_(learns)
        if learns:
            parameter.data = parameter.data.float()


def add_reference(model: MultiMoodForConditionalGeneration) -> None:
    """Keep a frozen copy of the adapter beside it."""
    with warnings.catch_warnings():  # PEFT asks whether two adapters are meant: they are
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        model.add_adapter(model.peft_config[ADAPTER], adapter_name=REFERENCE)
    model.set_adapter(ADAPTER)
    for name, parameter in model.named_parameters():
        if f".{ADAPTER}." in name:
            copy = model.get_parameter(name.replace(f".{ADAPTER}.", f".{REFERENCE}."))
            copy.data = parameter.detach().clone()
            copy.requires_grad_(False)


def parents_of(policy: Checkpoint) -> dict[str, Path | None]:
    """The parent's folder for a lineage, as seen from here: a path of one machine has no place in a checkpoint."""
    return {"policy": Path(os.path.relpath(policy.folder))}


@contextmanager
def reference(model: MultiMoodForConditionalGeneration) -> Iterator[None]:
    """Within it, the model is the reference."""
    model.set_adapter(REFERENCE)
    try:
        yield
    finally:
        model.set_adapter(ADAPTER)


def rewarder_of(reward: str, mixture: SftConfig | None = None, window: int = 0) -> Rewarder:
    """The reward that a configuration names, on this process's device; a reward model is guarded as the others are.

    Args:
        reward: ``embedded`` or the folder of a reward model.
        mixture: names the base of the reward model; the embedded one when None.
        window: situations that the guard against templates remembers; 0 where replies are measured.

    Raises:
        ModelError: there is no such reward model.
    """
    embedded = embedded_rewards(device=str(own_device()), window=window)
    if reward == EMBEDDED:
        return embedded
    from train.reward_model import RewardModelTerm  # which reads this module's settings

    return RewardFunction([(RewardModelTerm.load(Path(reward), mixture or SftConfig()), 1.0)], embedded.guards)


def totals(rewards: Sequence[Reward]) -> list[float | None]:
    """Each reward's total; None where it is missing.

    Raises:
        ModelError: a total is no finite number, which would spoil its whole group.
    """
    for reward in rewards:
        if reward.total is not None and not math.isfinite(reward.total):
            raise ModelError(f"Expected finite rewards, got {reward.total} from {dict(reward.parts)}. Mend the reward's term.")
    return [reward.total for reward in rewards]


def mean_parts(rewards: Sequence[Reward]) -> dict[str, float]:
    """The mean of each part over the rewards that have it, and the share of rewards that are missing altogether."""
    names = {name: None for reward in rewards for name in reward.parts}
    means = {}
    for name in names:
        known = [value for reward in rewards if (value := reward.parts.get(name)) is not None]
        if known:
            means[name] = sum(known) / len(known)
    return means | {"missing": sum(reward.total is None for reward in rewards) / len(rewards)}
