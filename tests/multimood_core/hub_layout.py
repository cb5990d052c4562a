"""Small checkpoints in the layouts of the hub, to be loaded by the tests of ``multimood_core.checkpoint``.

The hub's side is built from Qwen2ForCausalLM with the parts under their published names, and adapters by PEFT itself.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model
from safetensors.torch import save_file
from torch import nn
from transformers import MambaConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Model, SiglipVisionConfig

from multimood_core.audio_projector import build_audio_projector
from multimood_core.beats import BeatsConfig, BeatsTower
from multimood_core.conv_compressor import ConvCompressor
from multimood_core.siglip_tower import SiglipTower
from multimood_core.stc_connector import STCConnector

QWEN = Qwen2Config(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=False,
)
SIGLIP = SiglipVisionConfig(
    hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
)
BEATS = BeatsConfig(
    embed_dim=4,
    encoder_layers=2,
    encoder_embed_dim=8,
    encoder_ffn_embed_dim=12,
    encoder_attention_heads=2,
    conv_pos=4,
    conv_pos_groups=2,
    num_buckets=8,
    max_distance=10,
)
MAMBA = MambaConfig(vocab_size=24, hidden_size=8, state_size=2, num_hidden_layers=1)
MEM = 23
LINEARS = r"model\.layers\.\d+\..*_proj"


class Ours(nn.Module):
    """The parts of the whole model under its names."""

    def __init__(self, kind="mlp2x_gelu", compressor=False):
        super().__init__()
        self.model = nn.Module()
        self.model.language_model = Qwen2Model(QWEN)
        self.model.vision_tower = SiglipTower(SIGLIP)
        self.model.vision_projector = STCConnector(8, 16, depth=2)
        self.model.audio_tower = BeatsTower(BEATS)
        self.model.audio_projector = build_audio_projector(kind, 8, 16)
        if compressor:
            self.model.compressor = ConvCompressor(MAMBA, 16, MEM)
        for mode in ("video", "audio", "history"):
            setattr(self.model, f"{mode}_mode", nn.Embedding(3, 16))
        self.model.expression_heads = nn.ModuleDict({"voice": nn.Linear(8, 6)})
        self.lm_head = nn.Linear(16, 40, bias=False)


def hub_model(kind="mlp2x_gelu", seed=0) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    hub = Qwen2ForCausalLM(QWEN).eval()
    hub.model.vision_tower = SiglipTower(SIGLIP)
    hub.model.mm_projector = STCConnector(8, 16, depth=2)
    hub.model.audio_tower = BeatsTower(BEATS)
    hub.model.audio_tower.predictor = nn.Linear(8, 5)
    hub.model.mm_projector_a = build_audio_projector(kind, 8, 16)
    for parameter in hub.parameters():  # norms and gates start as ones: make every tensor its own
        nn.init.normal_(parameter)
    return hub.requires_grad_(False)


def save_hub(hub: nn.Module, folder: Path, shards=4, bins=True, **changes) -> Path:
    """VideoLLaMA2.1-7B-AV's layout: shards, index, and the two .bin files of the audio stage."""
    folder.mkdir(exist_ok=True, parents=True)
    state = {key: tensor.clone() for key, tensor in hub.state_dict().items()} | changes
    weight_map = {}
    for i in range(shards):
        name = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {key: tensor for n, (key, tensor) in enumerate(state.items()) if n % shards == i and tensor is not None}
        save_file(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    if bins:
        for file, part in (("audio_tower.bin", "audio_tower"), ("mm_projector_a.bin", "mm_projector_a")):
            torch.save({key: t.clone() for key, t in hub.named_parameters() if part in key}, folder / file)
    return folder


def save_run(peft_model, folder: Path, hub: nn.Module, trained=("mm_projector.", "mm_projector_a.")) -> Path:
    """A LoRA run as MultiMood's training script saves it."""
    peft_model.save_pretrained(folder)
    state = {
        f"base_model.model.{key}": t.clone() for key, t in hub.state_dict().items() if any(p in key for p in trained)
    }
    torch.save(state, folder / "non_lora_trainables.bin")
    return folder


def assert_holds(ours: Ours, hub: nn.Module, skip=()):
    """Every tensor of the hub's model stands in ours under the name typed here."""
    names = {
        "model.embed_tokens.": "model.language_model.embed_tokens.",
        "model.layers.": "model.language_model.layers.",
        "model.norm.": "model.language_model.norm.",
        "lm_head.": "lm_head.",
        "model.vision_tower.vision_tower.vision_model.": "model.vision_tower.vision_tower.vision_model.",
        "model.mm_projector.": "model.vision_projector.",
        "model.mm_projector_a.": "model.audio_projector.",
        "model.audio_tower.": "model.audio_tower.",
    }
    state = ours.state_dict()
    for key, tensor in hub.state_dict().items():
        if ".predictor." in key or key.startswith(skip):
            continue
        prefix = next(p for p in names if key.startswith(p))
        torch.testing.assert_close(state[names[prefix] + key.removeprefix(prefix)], tensor, rtol=1e-5, atol=1e-5)


def adapt(hub, **settings_):
    """A PEFT model over ``hub`` whose factors are both away from zero."""
    model = get_peft_model(hub, PeftConfig(**{"r": 3, "lora_alpha": 12, "target_modules": LINEARS, **settings_}))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3)
    return model


def save_compressor(folder: Path, mem=MEM) -> ConvCompressor:
    torch.manual_seed(2)
    compressor = ConvCompressor(MAMBA, 16, mem)
    folder.mkdir()
    compressor.save_pretrained(folder)
    return compressor
