"""A plan says what a run takes: counts worked out by hand, memory as it is measured, and the 7B shape without its memory."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from multimood_core.config import MultiMoodConfig
from multimood_core.dialogues import write_dialogues
from multimood_core.errors import DataError
from multimood_core.weights import weights_path
from tests.train.measured_step import LEARNT, ROWS, WIDTH, make
from tests.train.test_sft import dialogues
from train import compressor, grpo, ppo, projectors, reward_model, sft
from train.base import read_model_config
from train.config import load_config
from train.data import clip_dialogue
from train.plan import NF4_BYTES, language_model_loss, meta_base, read_strategy, step_operations
from train.plan_rounds import cache_bytes, plan_rounds, round_operations
from train.turns import Clip

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "train/configs"


@pytest.fixture(scope="module")
def measured() -> list[dict[str, float]]:
    # Freed memory goes back to the system at once, so that the next step's peak is seen.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tests.train.measured_step"]
    done = subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of resident memory is read from /proc")
def test_the_memory_of_a_step_is_foreseen(measured: list[dict[str, float]]) -> None:
    assert len(measured) == 4
    for case in measured:
        assert case["measured"] == pytest.approx(case["foreseen"], rel=0.2), case


def test_checkpointing_and_half_precision_are_seen_to_save_memory(measured: list[dict[str, float]]) -> None:
    peak = {(case["half"], case["checkpointing"]): case["foreseen"] for case in measured}
    assert peak[False, True] < 0.6 * peak[False, False]
    assert peak[True, False] < 0.95 * peak[False, False]


def test_operations_are_those_worked_out_by_hand() -> None:
    model = make("meta", checkpointing=False)
    found = step_operations(model, language_model_loss(model, ROWS, WIDTH, LEARNT))
    width, heads, kv, ffn, layers, rank, vocabulary = 384, 6 * 64, 2 * 64, 1024, 6, 8, 2000
    shapes = [(width, heads), (width, kv), (width, kv), (heads, width), (width, ffn), (width, ffn), (ffn, width)]
    frozen = sum(a * b for a, b in shapes)
    lora = sum((a + b) * rank for a, b in shapes)
    tokens = ROWS * WIDTH
    # Two operations a weight and token, forwards and again for the input's gradient; trained weights have a third pass.
    products = layers * tokens * (4 * frozen + 6 * lora) + 4 * ROWS * LEARNT * width * vocabulary
    # Two products forwards and five backwards, over half of the scores since the model is causal.
    attention = layers * 7 * ROWS * heads * WIDTH * WIDTH
    assert found == pytest.approx(products + attention, rel=1e-3)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data stage's output: dialogues, and clips with picture and sound, whose media nobody opens."""
    for split in ("train", "val"):
        (tmp_path / "mesc").mkdir(exist_ok=True)
        write_dialogues(tmp_path / "mesc" / f"{split}.jsonl", dialogues(6))
    (tmp_path / "dfew").mkdir()
    clips = [clip_dialogue(Clip(tmp_path / f"{i}.mp4", "joy", ""), "train", tmp_path) for i in range(5)]
    write_dialogues(tmp_path / "dfew" / "train.jsonl", clips)
    return tmp_path


def arguments(strategy: str | None = None, device: str | None = None) -> argparse.Namespace:
    path = CONFIGS / "accelerate" / f"{strategy}.yaml" if strategy else None
    return argparse.Namespace(strategy=path, device=device)


def test_the_seven_billion_model_is_planned_without_its_memory(data: Path) -> None:
    config, _ = load_config(sft.SftConfig, ["--config", str(CONFIGS / "sft_h100.yaml"), f"--data={data}", f"--root={data}"])
    before = psutil.Process().memory_info().rss
    plan = sft.plan(config, arguments("multi_gpu"))
    assert psutil.Process().memory_info().rss - before < 1.5 * 2**30
    # LoRA: (in + out) * 128 for each of seven projections in 28 layers; the seven mode embeddings are 3584 wide.
    assert plan.trained == (7168 + 4096 + 4096 + 7168 + 3 * 22528) * 128 * 28 + 7 * 3584
    assert {"video (at most 1352)", "audio (at most 1496)"} < set(plan.tokens)
    # every turn is given sound, picture or both, each a third of the time
    assert plan.tokens["audio (at most 1496)"] == pytest.approx(1496 * 2 / 3, rel=0.5)
    assert plan.strategy.processes == 4
    assert not plan.strategy.sharded
    assert "h100" in plan.table()
    model, _ = meta_base(config, read_model_config(config.model))
    language = sum(p.numel() for p in model.model.language_model.parameters()) + model.lm_head.weight.numel()
    assert language == 7_615_616_512  # Qwen2-7B's


def test_sharding_and_quantising_shrink_what_a_gpu_holds(data: Path) -> None:
    config, _ = load_config(sft.SftConfig, ["--config", str(CONFIGS / "sft_h100.yaml"), f"--data={data}", f"--root={data}"])
    copies = sft.plan(config, arguments("multi_gpu"))
    plain = sft.plan(dataclasses.replace(config, quantise="no"), arguments("multi_gpu"))
    split = sft.plan(dataclasses.replace(config, quantise="no"), arguments("zero3"))
    assert split.optimizer == plain.optimizer / 4
    assert split.weights < 0.4 * plain.weights
    layers = 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    assert plain.weights - copies.weights == pytest.approx(layers * (2 - NF4_BYTES), rel=1e-6)
    assert plain.operations == copies.operations
    assert split.memory < plain.memory


def mixture_of(data: Path) -> Path:
    """Settings of supervised fine-tuning on the data, without clips of its own."""
    path = data / "sft.yaml"
    path.write_text(f"data: {data}\nroot: {data}\nprojectors: null\nvoices: []\nfaces: []\n")
    return path


def test_rounds_are_planned_at_paper_scale_without_their_parent(data: Path) -> None:
    mixture = data / "sft_h100.yaml"
    mixture.write_text((CONFIGS / "sft_h100.yaml").read_text() + f"data: {data}\nroot: {data}\n")
    config, _ = load_config(grpo.GrpoConfig, ["--config", str(CONFIGS / "grpo_h100.yaml"), f"--mixture={mixture}", "--prompts=4"])
    with pytest.raises(DataError, match="whole model in each process"):
        plan_rounds("grpo", config, arguments("zero3"), 1)
    plan = plan_rounds("grpo", config, arguments("multi_gpu"), 1)
    assert plan.trained == (7168 + 4096 + 4096 + 7168 + 3 * 22528) * 128 * 28  # the mode embeddings are frozen here
    assert plan.batch[0] == 1  # four prompts, four processes
    assert plan.optimizer == 8 * plan.trained
    assert "without the reward's time" in plan.table()


def test_a_reading_is_a_forward_pass_and_learning_the_rest() -> None:
    model = make("meta", checkpointing=False)
    once, twice = (round_operations(model, WIDTH, LEARNT, readings, updates=1) for readings in (0, 1))
    learning = step_operations(model, language_model_loss(model, 1, WIDTH + LEARNT, LEARNT))
    assert twice - once == pytest.approx(once - learning)  # writing and a reading cost the same
    updated = round_operations(model, WIDTH, LEARNT, 0, updates=3)
    assert updated - once == pytest.approx(2 * learning)


def test_keys_and_values_weigh_what_a_hand_counts() -> None:
    """28 layers with 4 heads of 128 numbers, in bfloat16."""
    model, _ = meta_base(*h100_base())
    assert cache_bytes(model) == 2 * 28 * 4 * 128 * 2


def h100_base() -> tuple[sft.SftConfig, MultiMoodConfig]:
    config, _ = load_config(sft.SftConfig, ["--config", str(CONFIGS / "sft_h100.yaml")])
    return config, read_model_config(config.model)


def test_every_stage_plans(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = [f"--data={data}", f"--root={data}", "--dry-run", "--device=cpu"]
    clips = ["--voices=[]", "--faces=[]", "--films=[dfew]"]
    for main, more in (
        (projectors.main, clips),
        (sft.main, [*clips, "--projectors=null"]),
    ):
        main([*common, *more])
    compressor.main([f"--data={data}", "--dry-run", "--device=h100"])
    compressor.main(["--config", str(CONFIGS / "compressor_h100.yaml"), f"--data={data}", "--dry-run", "--device=h100"])
    rounds = [f"--mixture={mixture_of(data)}", "--dry-run", "--device=cpu", "--prompts=2"]
    grpo.main(rounds)
    ppo.main(rounds)
    reward_model.main(rounds[:3])
    said = capsys.readouterr().out
    for stage in ("projectors", "sft", "compressor", "grpo", "ppo", "reward_model"):
        assert f"Plan of {stage} (nothing is run):" in said
    assert said.count("memory of a process") == 7
    assert not list(data.glob("runs*"))


def test_a_plan_that_does_not_fit_says_so(data: Path) -> None:
    config, _ = load_config(
        sft.SftConfig,
        ["--config", str(CONFIGS / "sft_h100.yaml"), f"--data={data}", f"--root={data}", "--batch_tokens=400000",
         "--checkpointing=false"],
    )  # fmt: skip
    assert "GiB of one h100: shard, quantise or take smaller batches" in sft.plan(config, arguments(device="h100")).table()


def test_strategies_are_read_from_accelerates_configurations(tmp_path: Path) -> None:
    names = ("multi_gpu", "fsdp2", "zero3")
    found = {name: read_strategy(CONFIGS / "accelerate" / f"{name}.yaml", None) for name in names}
    assert {name: strategy.sharded for name, strategy in found.items()} == {"multi_gpu": False, "fsdp2": True, "zero3": True}
    assert {strategy.device for strategy in found.values()} == {"h100"}
    (tmp_path / "other.yaml").write_text("a: 1")
    with pytest.raises(DataError, match=r"accelerate configuration with distributed_type at .*other\.yaml"):
        read_strategy(tmp_path / "other.yaml", None)


def test_the_embedded_model_is_planned_as_it_is_built(data: Path) -> None:
    from train.base import BaseConfig, build_base

    path = CONFIGS / "model_mini.yaml"
    planned, _ = meta_base(BaseConfig(), read_model_config(path))
    built, _ = build_base(BaseConfig(), read_model_config(path))
    assert weights_path("smollm2").is_dir()

    def held(model: torch.nn.Module) -> dict[str, tuple[torch.Size, torch.dtype]]:
        return {name: (p.shape, p.dtype) for name, p in model.named_parameters()}

    assert held(planned) == held(built)
