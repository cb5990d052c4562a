"""Supervised fine-tuning: LoRA on the language model, projectors and compressor frozen (paper, Experimental setup).

    python -m train.sft --config train/configs/sft_mini.yaml [--key=value ...] [--resume]

Learnt are the answer's four lines. A label's line and the reply's line weigh what the configuration says, whatever their
number of tokens, since one label token among twenty of a reply would hardly be heard.

Where this departs from the paper, and why:
- MESC's video and sound are not released. With the probabilities p_audio, p_video and p_both (the paper's random modality
  selection) a turn is given a voice or face of another corpus, acted with the same emotion in ``agreement`` of the cases.
- The history's labels are gold in part of the samples, absent in part, and in part what a classifier trained on the other
  dialogues predicts, marked as unconfirmed: a live session nobody corrects looks like that.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from peft import LoraConfig
from safetensors.torch import load_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.naive_bayes import MultinomialNB
from torch import Tensor

from multimood_core.config import MultiMoodConfig
from multimood_core.dialogues import Dialogue, Item, items_of
from multimood_core.labels import MEDIA_EMOTIONS
from multimood_core.model import AUDIO_MODES, VIDEO_MODES, MultiMoodForConditionalGeneration
from multimood_core.processor import MultiMoodProcessor
from multimood_core.prompts import (
    AUDIO_TOKEN,
    CLIENT_LINE,
    HISTORY_TOKEN,
    RESPONSE_LINE,
    STRATEGY_LINE,
    THERAPIST_LINE,
    VIDEO_TOKEN,
    Piece,
)
from multimood_core.records import Context, HistoryTurn
from multimood_core.registry import ADAPTER, Calibration, build_embedded, load_modules, save
from train.config import dump_config, load_config, run_command
from train.data import read_mesc
from train.features import Towers
from train.loop import Loop, LoopConfig, write_whole
from train.projectors import ProjectorConfig, Sample, collect

USUAL_REPLY: Final = 24  # tokens; MESC's therapist turns have 17 on average and some hundred


@dataclass(frozen=True, slots=True)
class SftConfig(LoopConfig):
    """Settings of supervised fine-tuning."""

    out: Path = field(default=Path("runs/sft"), metadata={"help": "folder of the run"})
    projectors: Path = field(default=Path("runs/projectors/final"), metadata={"help": "checkpoint with aligned projectors"})
    compressor: Path = field(default=Path("runs/compressor-1/final"), metadata={"help": "trained compressor"})
    rank: int = field(default=16, metadata={"help": "of LoRA (paper: 128)"})
    alpha: int = field(default=32, metadata={"help": "of LoRA (paper: 256)"})
    lora_dropout: float = field(default=0.0, metadata={"help": "of LoRA; on a CPU its random numbers cost a third of a step"})
    client_weight: float = field(default=1.0, metadata={"help": "of the client's emotion in the loss"})
    therapist_weight: float = field(default=0.1, metadata={"help": "of the therapist's emotion"})
    strategy_weight: float = field(default=1.0, metadata={"help": "of the strategy"})
    response_weight: float = field(default=0.05, metadata={"help": "of the reply, per token on average"})
    class_balance: float = field(default=0.0, metadata={"help": "0: as they come; 1: every emotion weighs the same"})
    gold_history: float = field(default=0.5, metadata={"help": "part of the samples with gold labels in the history"})
    no_labels: float = field(default=0.2, metadata={"help": "part without labels; the rest has predicted ones"})
    all_recent: float = field(default=0.6, metadata={"help": "part with all the recent turns as text; the rest with fewer"})
    p_audio: float = field(default=0.1, metadata={"help": "part of the turns with a voice alone"})
    p_video: float = field(default=0.1, metadata={"help": "with a face alone"})
    p_both: float = field(default=0.1, metadata={"help": "with both"})
    agreement: float = field(default=0.75, metadata={"help": "part of those voices and faces that show the turn's emotion"})
    clips: int = field(default=1, metadata={"help": "times that each labelled clip is seen alone, an epoch"})


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sample as it goes into a batch."""

    ids: list[int]
    weights: list[float]
    lines: list[int]
    history: list[int]
    video: Tensor | None
    audio: Tensor | None


def predicted_history(dialogues: Sequence[Dialogue], folds: int = 5) -> dict[tuple[str, int], tuple[str, str]]:
    """What a bag-of-words classifier predicts for each client turn of dialogues it was not trained on.

    Returns:
        (dialogue id, turn index) -> the client's emotion and the strategy of the turn after.
    """
    items = list(items_of(dialogues))
    texts = [item.client.text for item in items]
    counts = TfidfVectorizer(min_df=2, sublinear_tf=True).fit_transform(texts)
    fold = [int(item.dialogue.id) % folds for item in items]
    found: dict[tuple[str, int], tuple[str, str]] = {}
    for k in range(folds):
        inside = [i for i, f in enumerate(fold) if f != k]
        outside = [i for i, f in enumerate(fold) if f == k]
        emotions = MultinomialNB(alpha=0.3).fit(counts[inside], [items[i].client.emotion for i in inside])
        strategies = MultinomialNB(alpha=0.3).fit(counts[inside], [items[i].therapist.strategy for i in inside])
        pairs = zip(emotions.predict(counts[outside]), strategies.predict(counts[outside]), strict=True)
        for i, (emotion, strategy) in zip(outside, pairs, strict=True):
            found[items[i].dialogue.id, items[i].index] = (str(emotion), str(strategy))
    return found


class SftTask:
    """MESC's items and labelled clips as samples of one mixture."""

    def __init__(
        self,
        config: SftConfig,
        model: MultiMoodForConditionalGeneration,
        processor: MultiMoodProcessor,
        dialogues: Sequence[Dialogue],
        clips: Sequence[Sample],
    ) -> None:
        self.config, self.model, self.processor = config, model, processor
        self.items = list(items_of(dialogues))
        self.clips = list(clips) * config.clips
        self.predictions = predicted_history(dialogues)
        self.pool: dict[tuple[str, int], list[Sample]] = defaultdict(list)
        for clip in clips:
            self.pool[clip.modality, clip.emotion].append(clip)
        seen = Counter(item.client.emotion for item in self.items)
        mean = len(self.items) / len(seen)
        self.class_weight = {e: (mean / n) ** config.class_balance for e, n in seen.items()}
        rng = random.Random(config.seed)
        # Drawn once for each item, since batches are made of items of about the same length.
        usual = processor.recent_turns
        self.recent = [usual if rng.random() < config.all_recent else rng.randrange(usual + 1) for _ in self.items]
        self.lengths = [len(self.encode(i, rng).ids) for i in range(len(self.items) + len(self.clips))]

    # -- samples ---------------------------------------------------------------------------------------------------

    def encode(self, index: int, rng: random.Random) -> Encoded:
        if index < len(self.items):
            return self._dialogue_sample(self.items[index], rng, self.recent[index])
        return self._clip_sample(self.clips[index - len(self.items)], rng)

    def history(self, item: Item, kind: str) -> list[HistoryTurn]:
        """The turns before ``item`` with ``gold``, ``none`` or ``predicted`` labels."""
        turns = list(item.history(gold=kind == "gold"))
        if kind != "predicted":
            return turns
        before = item.dialogue.id
        for i, turn in enumerate(turns):
            if turn.speaker == "client" and (before, i) in self.predictions:
                turns[i] = replace(turn, emotion=self.predictions[before, i][0], emotion_confirmed=False)
            elif turn.speaker == "therapist" and (before, i - 1) in self.predictions:
                strategy = self.predictions[before, i - 1][1]
                guess = replace(turn, emotion="neutral", strategy=strategy)
                turns[i] = replace(guess, emotion_confirmed=False, strategy_confirmed=False)
        return turns

    def _dialogue_sample(self, item: Item, rng: random.Random, recent: int) -> Encoded:
        cfg, draw = self.config, rng.random()
        kind = "gold" if draw < cfg.gold_history else "none" if draw < cfg.gold_history + cfg.no_labels else "predicted"
        voice, face = self._media_of(item.client.emotion or "neutral", rng)
        lines = [
            (CLIENT_LINE, item.client.emotion, cfg.client_weight * self.class_weight[item.client.emotion]),
            (THERAPIST_LINE, item.therapist.emotion, cfg.therapist_weight),
            (STRATEGY_LINE, item.therapist.strategy, cfg.strategy_weight),
            (RESPONSE_LINE, item.therapist.text, cfg.response_weight),
        ]
        history, context = self.history(item, kind), self._context(item, rng)
        return self._assemble(item.client.text, history, voice, face, lines, rng, context, recent)

    def _context(self, item: Item, rng: random.Random) -> Context:
        # The training split has no situations; the dialogue's first client turn, cut, keeps the slot from being alien.
        first = next((t.text for t in item.dialogue.turns[: item.index] if t.speaker == "client"), "")
        return Context(situation=" ".join(first.split()[:20])) if first and rng.random() < 0.3 else item.dialogue.context

    def _clip_sample(self, clip: Sample, rng: random.Random) -> Encoded:
        voice = clip if clip.modality == "voice" else None
        face = clip if clip.modality == "face" else None
        lines = [(CLIENT_LINE, MEDIA_EMOTIONS[clip.emotion], clip.weight)]
        return self._assemble("", [], voice, face, lines, rng, Context())

    def _media_of(self, emotion: str, rng: random.Random) -> tuple[Sample | None, Sample | None]:
        cfg, draw = self.config, rng.random()
        audio = draw < cfg.p_audio or cfg.p_audio + cfg.p_video <= draw < cfg.p_audio + cfg.p_video + cfg.p_both
        video = cfg.p_audio <= draw < cfg.p_audio + cfg.p_video + cfg.p_both
        acted = MEDIA_EMOTIONS.index("sadness" if emotion == "depression" else emotion)
        shown = acted if rng.random() < cfg.agreement else rng.randrange(len(MEDIA_EMOTIONS))

        def pick(modality: str) -> Sample | None:
            pool = self.pool[modality, shown]
            return rng.choice(pool) if pool else None

        return pick("voice") if audio else None, pick("face") if video else None

    def _assemble(
        self,
        text: str,
        history: Sequence[HistoryTurn],
        voice: Sample | None,
        face: Sample | None,
        lines: Sequence[tuple[str, str | None, float]],
        rng: random.Random,
        context: Context,
        recent: int = 0,
    ) -> Encoded:
        base, processor = self.model.model, self.processor
        audio = video = None
        if voice:
            view = voice.views[rng.randrange(len(voice.views))]
            audio = (view - base.audio_tower.feature_mean) / base.audio_tower.feature_std
        if face:
            view = face.views[rng.randrange(len(face.views))]
            frames = rng.choice((2, 2, 4, 8, 16))
            video = ((view - base.vision_tower.feature_mean) / base.vision_tower.feature_std).expand(frames, -1, -1)
        counts = {
            VIDEO_TOKEN: self.model.config.video_tokens(len(video)) if video is not None else 1,
            AUDIO_TOKEN: len(audio) if audio is not None else 1,
            HISTORY_TOKEN: max(1, len(history)),
        }
        ids = processor.expand(processor.encode_prompt(text, history, context, recent_turns=recent), counts)
        weights, numbers = [0.0] * len(ids), [-1] * len(ids)
        for number, (start, value, weight) in enumerate(lines):
            prefix = processor.encode_pieces([Piece(start if start == CLIENT_LINE else f"\n{start}")])
            target = self._target(start, value or "")
            # Every token of a label weighs the same, or labels of many tokens would seem rarer than they are; a reply
            # counts by its tokens too, but a monologue no more than a usual reply.
            per_token = weight * min(1, USUAL_REPLY / len(target)) if start == RESPONSE_LINE else weight
            ids += prefix + target
            weights += [0.0] * len(prefix) + [per_token] * len(target)
            numbers += [-1] * len(prefix) + [number] * len(target)
        units = [token for turn in history for token in processor.encode_history_turn(turn)]
        return Encoded(ids, weights, numbers, units, video, audio)

    def _target(self, start: str, value: str) -> list[int]:
        ids = self.processor.encode_value(value)
        return [*ids, self.processor.tokenizer.eos_token_id] if start == RESPONSE_LINE else ids

    # -- loss ------------------------------------------------------------------------------------------------------

    def loss(self, batch: Sequence[int], rng: random.Random) -> Mapping[str, Tensor]:
        rows = [self.encode(i, rng) for i in batch]
        ids, mask = self.processor.pad([row.ids for row in rows])
        weights, lines = torch.zeros(ids.shape), torch.full(ids.shape, -1)
        for i, row in enumerate(rows):
            weights[i, : len(row.weights)] = torch.tensor(row.weights)
            lines[i, : len(row.lines)] = torch.tensor(row.lines)
        hidden = self.model.model(input_ids=ids, attention_mask=mask, **self.media(rows)).last_hidden_state
        kept = weights[:, 1:] > 0
        with torch.autocast(hidden.device.type, enabled=False):  # half precision would blur the labels' logits
            logits = self.model.lm_head(hidden[:, :-1][kept].to(self.model.lm_head.weight.dtype)).float()
        expected, weight = ids[:, 1:][kept], weights[:, 1:][kept]
        losses = F.cross_entropy(logits, expected, reduction="none")
        right, line = (logits.argmax(-1) == expected).float(), lines[:, 1:][kept]
        metrics = {"loss": (losses * weight).sum() / len(rows)}
        for number, name in enumerate(("client", "therapist", "strategy", "reply")):
            if bool((line == number).any()):
                metrics[f"{name}/nats"] = losses[line == number].detach().mean()
                metrics[f"{name}/accuracy"] = right[line == number].mean()
        return metrics

    def media(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """The rows' media as the model's arguments."""
        arguments: dict[str, Tensor] = {
            "video_modes": torch.tensor([VIDEO_MODES.index("missing" if r.video is None else "used") for r in rows]),
            "audio_modes": torch.tensor([AUDIO_MODES.index("missing" if r.audio is None else "used") for r in rows]),
        }
        videos = [r.video for r in rows if r.video is not None]
        if videos:
            frames = max(len(v) for v in videos)
            arguments["video_features"] = torch.zeros(len(rows), frames, *videos[0].shape[1:])
            arguments["video_frames"] = torch.tensor([0 if r.video is None else len(r.video) for r in rows])
            for i, row in enumerate(rows):
                if row.video is not None:
                    arguments["video_features"][i, : len(row.video)] = row.video
        audios = [r.audio for r in rows if r.audio is not None]
        if audios:
            steps = max(len(a) for a in audios)
            arguments["audio_features"] = torch.zeros(len(rows), steps, audios[0].shape[1])
            arguments["audio_mask"] = torch.zeros(len(rows), steps, dtype=torch.bool)
            for i, row in enumerate(rows):
                if row.audio is not None:
                    arguments["audio_features"][i, : len(row.audio)] = row.audio
                    arguments["audio_mask"][i, : len(row.audio)] = True
        if any(row.history for row in rows):
            arguments["history_ids"], arguments["history_mask"] = self.processor.pad([row.history for row in rows])
        return arguments


def build(config: SftConfig) -> tuple[MultiMoodForConditionalGeneration, MultiMoodProcessor]:
    """The embedded model with aligned projectors, trained compressor and fresh LoRA; only LoRA and modes are trained."""
    model_config = MultiMoodConfig.from_pretrained(config.projectors)
    model, processor = build_embedded(model_config)
    load_modules(model, config.projectors / "modules.safetensors")
    assert model.model.compressor is not None
    model.model.compressor.load_state_dict(load_file(config.compressor / "compressor.safetensors"))
    words = model.get_input_embeddings().weight.detach().float()
    for table in (model.model.video_mode, model.model.audio_mode, model.model.history_mode):
        no = processor.tokenizer(" none", add_special_tokens=False).input_ids
        with torch.no_grad():
            table.weight.copy_(words[no].mean(0) + 0.1 * words.std() * torch.randn_like(table.weight))
    model.requires_grad_(False)
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.lora_dropout,
        target_modules=rf".*language_model\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(names)})",
    )
    model.add_adapter(lora, adapter_name=ADAPTER)
    for name, parameter in model.named_parameters():
        trained = "lora_" in name or "_mode." in name
        parameter.requires_grad_(trained)
        if trained:
            parameter.data = parameter.data.float()
    return model, processor


def main(argv: Sequence[str] | None = None) -> None:
    config, args = load_config(SftConfig, argv, __doc__ or "")
    torch.manual_seed(config.seed)
    model, processor = build(config)
    splits = read_mesc()
    task = SftTask(config, model, processor, splits["train"], collect(ProjectorConfig(), Towers.load()))
    loop = Loop(config, model, task.lengths, task.loss, config.out)
    if args.dry_run:
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        sizes = {"samples": len(task.lengths), "tokens": sum(task.lengths), "steps": loop.total_steps, "trained": trained}
        print(json.dumps(sizes))
        return
    model.train()
    loop.run(args.resume)
    write_whole(config.out / "final", _writer(config, model))


def _writer(config: SftConfig, model: MultiMoodForConditionalGeneration) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        lineage = {"stage": "sft", "parent": str(config.projectors), "compressor": str(config.compressor), "seed": config.seed}
        save(folder, model, Calibration(), lineage)
        dump_config(config, folder / "config.yaml")

    return fill


if __name__ == "__main__":
    run_command(main)
