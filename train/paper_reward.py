"""The paper's reward from one configuration: BGE-M3 in a folder, and a judge behind an OpenAI-compatible endpoint.

    python -m train.grpo --config train/configs/grpo_h100.yaml --reward=paper      (OPENAI_API_KEY in the environment)

The key comes from ``MULTIMOOD_JUDGE_KEY``, else ``OPENAI_API_KEY``, and is written nowhere. Answers are kept beside the run,
so that what a resumed run asks again costs nothing. Calls, failures and cost are in the metrics and printed at the end; a
call that failed is missing, never 0, and above ``judge_failures`` the run stops.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from multimood_core.bge_m3 import BgeSimilarity
from multimood_core.endpoint import Endpoint, EndpointSettings, key_of_environment
from multimood_core.endpoint_judge import EndpointJudge
from multimood_core.errors import DataError
from multimood_core.judges import TrustReward
from multimood_core.rewards import WINDOW, RewardFunction, paper_rewards
from train.base import EMBEDDED, own_device
from train.loop import LoopConfig

PAPER: Final = "paper"
_FLOOR: Final = 1000  # real replies that the similarity of unrelated ones is measured on


@dataclass(frozen=True, slots=True)
class RewardConfig(LoopConfig):
    """Which reward is learnt from; what begins with ``judge_`` or ``bge`` is read with ``reward: paper`` alone."""

    reward: str = field(
        default=EMBEDDED,
        metadata={"help": f"{EMBEDDED}, {PAPER} (BGE-M3 and a judge's endpoint), or the folder of a trained reward model"},
    )
    window: int = field(default=WINDOW, metadata={"help": "situations that the reward's guard against templates remembers"})
    bge: Path = field(default=Path("checkpoints/bge-m3"), metadata={"help": "folder with the files of BAAI/bge-m3"})
    judge_model: str = field(default="gpt-4o", metadata={"help": "the judge's name at its endpoint (paper: GPT-4o)"})
    judge_url: str | None = field(default=None, metadata={"help": "its OpenAI-compatible address; null: OpenAI's own"})
    judge_cache: Path | None = field(default=None, metadata={"help": "file of its answers; null: OUT/judge.sqlite"})
    judge_failures: float = field(default=0.2, metadata={"help": "share of failed calls above which the run stops"})
    judge_concurrency: int = field(default=8, metadata={"help": "calls at the same time, of each process"})
    judge_prices: tuple[float, ...] = field(
        default=(), metadata={"help": "money for a million tokens in and out; without them no cost is stated"}
    )


def paper_reward(config: RewardConfig, out: Path, references: Sequence[str]) -> RewardFunction:
    """(r_trust + r_sim) / 2 with the paper's models, and the guards.

    Args:
        config: says where they are.
        out: folder of the run.
        references: real replies of the training split, from which the similarity's floor is measured.

    Raises:
        DataError: prices that are no two numbers, or OpenAI's own address without a key.
        ModelError: the folder is no BGE-M3.
    """
    if len(config.judge_prices) not in (0, 2):
        raise DataError(f"Expected judge_prices as two numbers, for tokens in and out, got {list(config.judge_prices)}.")
    key = key_of_environment()
    if not key and config.judge_url is None:
        raise DataError("Expected OpenAI's key in MULTIMOOD_JUDGE_KEY or OPENAI_API_KEY, or a server of your own as judge_url.")
    price_in, price_out = config.judge_prices or (None, None)
    settings = EndpointSettings(
        config.judge_model,
        config.judge_url,
        key,
        concurrency=config.judge_concurrency,
        max_failure_rate=config.judge_failures,
        cache=config.judge_cache or out / "judge.sqlite",
        price_in=price_in,
        price_out=price_out,
    )
    similarity = BgeSimilarity(config.bge, own_device())
    some = random.Random(0).sample(list(references), min(_FLOOR, len(references)))
    return paper_rewards(similarity, EndpointJudge(Endpoint(settings)), some, window=config.window)


def usage_of(reward: object) -> dict[str, Any]:
    """What the endpoint of a reward's judge was asked since this process began; empty where there is none."""
    for term, _ in reward.terms if isinstance(reward, RewardFunction) else ():
        if isinstance(term, TrustReward) and isinstance(term.judge, EndpointJudge):
            return term.judge.endpoint.report()
    return {}
