"""What supervised fine-tuning learns from: MESC's items with history and media drawn anew, labelled clips and sentences.

Where this departs from the paper, and why:
- MESC's video and sound are not released. A turn without a clip of its own is given, with the probabilities p_audio,
  p_video and p_both (the paper's random modality selection), a voice or face of another corpus, acted with the same
  emotion in ``agreement`` of the cases. Of a turn that has a clip, the same probabilities choose what is used.
- The history's labels are gold in part of the samples, absent in part, and in part what a classifier trained on the other
  dialogues predicts, marked as unconfirmed: a live session nobody corrects looks like that.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, cast

import torch
import torch.nn.functional as F
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.naive_bayes import MultinomialNB
from torch import Tensor

from multimood_core.config import MultiMoodConfig
from multimood_core.dialogues import Dialogue, Item, items_of
from multimood_core.errors import DataError
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
from train.base import audio_tokens, read_model_config
from train.features import MediaConfig, TurnViews, Views, cache_of, media_of, standardised
from train.loop import row_rngs, touched
from train.projectors import Sample, collect
from train.turns import read_split

USUAL_REPLY: Final = 24  # tokens; MESC's therapist turns have 17 on average and some hundred
CORPUS: Final = "mesc"
SENTENCES: Final = "goemotions"


@dataclass(frozen=True, slots=True)
class SftConfig(MediaConfig):
    """Settings of supervised fine-tuning."""

    out: Path = field(default=Path("runs/sft"), metadata={"help": "folder of the run"})
    projectors: Path | None = field(
        default=Path("runs/projectors/final"), metadata={"help": "checkpoint with aligned projectors; null: the base's own"}
    )
    compressor: Path | None = field(
        default=Path("runs/compressor-1/final"), metadata={"help": "trained compressor; null: the base's own"}
    )
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
    sentences: int = field(default=0, metadata={"help": "of GoEmotions an epoch, their emotions as often as MESC's"})


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sample as it goes into a batch: features of video (T, P, D) and audio (S, D) as the towers gave them."""

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


def like_proportions(
    sentences: Sequence[Dialogue], shares: Mapping[str | None, int], count: int, rng: random.Random
) -> list[Dialogue]:
    """About ``count`` of the sentences, each emotion as often as in ``shares`` (depression's part goes to sadness).

    A prompt without history must not teach that other emotions are usual; of an emotion with too few, all are taken.

    Raises:
        DataError: sentences are asked for and there are none.
    """
    if count and not sentences:
        raise DataError(f"Expected sentences to draw {count} from, got none. Run train.data with goemotions: true.")
    pool: dict[str | None, list[Dialogue]] = defaultdict(list)
    for sentence in sentences:
        pool[sentence.turns[0].emotion].append(sentence)
    wanted = Counter[str | None]()
    for emotion, share in shares.items():
        wanted["sadness" if emotion == "depression" else emotion] += share
    drawn = []
    for emotion, share in wanted.items():
        drawn += rng.sample(pool[emotion], min(len(pool[emotion]), round(count * share / sum(wanted.values()))))
    return drawn


class SftTask:
    """MESC's items, labelled clips and sentences as samples of one mixture.

    Args:
        config: the mixture's settings.
        model: decides on tokens of video, and computes the loss.
        processor: writes the prompts.
        dialogues: whose items are learnt.
        clips: acted voices and faces.
        sentences: dialogues of one turn with an emotion, of which ``config.sentences`` are drawn.
        own: features of the turns' own clips, by the turn's ``media``.
    """

    def __init__(
        self,
        config: SftConfig,
        model: MultiMoodForConditionalGeneration,
        processor: MultiMoodProcessor,
        dialogues: Sequence[Dialogue],
        clips: Sequence[Sample],
        own: Mapping[str, TurnViews] | None = None,
        sentences: Sequence[Dialogue] = (),
    ) -> None:
        self.config, self.model, self.processor, self.own = config, model, processor, own or {}
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
        self.sentences = like_proportions(sentences, seen, config.sentences, random.Random(f"{config.seed}/sentences"))
        # Drawn once for each item, since batches are made of items of about the same length.
        usual = processor.recent_turns
        self.recent = [usual if rng.random() < config.all_recent else rng.randrange(usual + 1) for _ in self.items]
        count = len(self.items) + len(self.clips) + len(self.sentences)
        self.lengths = [len(self.encode(i, rng, read=False).ids) for i in range(count)]

    # -- samples ---------------------------------------------------------------------------------------------------

    def encode(self, index: int, rng: random.Random, read: bool = True) -> Encoded:
        """One sample; ``rng`` decides on the history's labels and on the media.

        Args:
            index: of the items, after them of the clips, and after them of the sentences.
            rng: the sample's own random source.
            read: the features too; without it they have their shapes alone (on the meta device).
        """
        if index < len(self.items):
            return self._dialogue_sample(self.items[index], rng, self.recent[index], read)
        index -= len(self.items)
        if index < len(self.clips):
            return self._clip_sample(self.clips[index], rng, read)
        said = self.sentences[index - len(self.clips)].turns[0]
        lines = [(CLIENT_LINE, said.emotion, self.config.client_weight)]
        return self._assemble(said.text, [], None, None, lines, rng, Context(), read)

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

    def parts(self, index: int, length: int, rng: random.Random) -> dict[str, int]:
        """Tokens of an item by what they stand for, its media drawn and counted at their largest; for plans.

        Args:
            index: of the items.
            length: tokens of what is counted of its sample, encoded without media.
            rng: decides on the media.
        """
        config, (heard, seen) = cast(MultiMoodConfig, self.model.config), self.chosen(rng)
        turns = max(1, self.items[index].index)
        return {
            "video": config.video_tokens(config.num_frames) if seen else 1,
            "audio": audio_tokens(config) if heard else 1,
            "turns": turns,
            "text": length - turns - 2,
        }

    def _dialogue_sample(self, item: Item, rng: random.Random, recent: int, read: bool) -> Encoded:
        cfg, draw = self.config, rng.random()
        kind = "gold" if draw < cfg.gold_history else "none" if draw < cfg.gold_history + cfg.no_labels else "predicted"
        voice: Sequence[Tensor] | None
        face: Sequence[Tensor] | None
        if own := self.own.get(item.client.media or ""):
            heard, seen = self.chosen(rng)
            voice, face = own.audio if heard else None, own.video if seen else None
        else:
            speaker, actor = self._media_of(item.client.emotion or "neutral", rng)
            voice, face = speaker.views if speaker else None, actor.views if actor else None
        lines = [
            (CLIENT_LINE, item.client.emotion, cfg.client_weight * self.class_weight[item.client.emotion]),
            (THERAPIST_LINE, item.therapist.emotion, cfg.therapist_weight),
            (STRATEGY_LINE, item.therapist.strategy, cfg.strategy_weight),
            (RESPONSE_LINE, item.therapist.text, cfg.response_weight),
        ]
        history, context = self.history(item, kind), self._context(item, rng)
        return self._assemble(item.client.text, history, voice, face, lines, rng, context, read, recent)

    def _context(self, item: Item, rng: random.Random) -> Context:
        # The training split has no situations; the dialogue's first client turn, cut, keeps the slot from being alien.
        first = next((t.text for t in item.dialogue.turns[: item.index] if t.speaker == "client"), "")
        return Context(situation=" ".join(first.split()[:20])) if first and rng.random() < 0.3 else item.dialogue.context

    def _clip_sample(self, clip: Sample, rng: random.Random, read: bool) -> Encoded:
        voice = clip.views if clip.modality == "voice" else None
        face = clip.views if clip.modality == "face" else None
        lines = [(CLIENT_LINE, MEDIA_EMOTIONS[clip.emotion], clip.weight)]
        return self._assemble("", [], voice, face, lines, rng, Context(), read)

    def chosen(self, rng: random.Random) -> tuple[bool, bool]:
        """Random modality selection: whether a turn's sound and whether its picture is used."""
        cfg, draw = self.config, rng.random()
        audio = draw < cfg.p_audio or cfg.p_audio + cfg.p_video <= draw < cfg.p_audio + cfg.p_video + cfg.p_both
        return audio, cfg.p_audio <= draw < cfg.p_audio + cfg.p_video + cfg.p_both

    def _media_of(self, emotion: str, rng: random.Random) -> tuple[Sample | None, Sample | None]:
        """A voice and a face of other people, acted with the turn's emotion or, now and then, with any."""
        audio, video = self.chosen(rng)
        acted = MEDIA_EMOTIONS.index("sadness" if emotion == "depression" else emotion)
        shown = acted if rng.random() < self.config.agreement else rng.randrange(len(MEDIA_EMOTIONS))

        def pick(modality: str) -> Sample | None:
            pool = self.pool[modality, shown]
            return rng.choice(pool) if pool else None

        return pick("voice") if audio else None, pick("face") if video else None

    def _assemble(
        self,
        text: str,
        history: Sequence[HistoryTurn],
        voice: Sequence[Tensor] | None,
        face: Sequence[Tensor] | None,
        lines: Sequence[tuple[str, str | None, float]],
        rng: random.Random,
        context: Context,
        read: bool,
        recent: int = 0,
    ) -> Encoded:
        processor = self.processor
        audio = _view(voice, rng, read) if voice else None
        video = _view(face, rng, read) if face else None
        if video is not None and len(video) == 1:  # a picture is a clip of like frames
            video = video.expand(rng.choice((2, 2, 4, 8, 16)), -1, -1)
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
        rows = [self.encode(i, own) for i, own in zip(batch, row_rngs(batch, rng), strict=True)]
        ids, mask = self.processor.pad([row.ids for row in rows])
        weights, lines = torch.zeros(ids.shape), torch.full(ids.shape, -1)
        for i, row in enumerate(rows):
            weights[i, : len(row.weights)] = torch.tensor(row.weights)
            lines[i, : len(row.lines)] = torch.tensor(row.lines)
        device = self.model.lm_head.weight.device
        ids, mask, weights, lines = (tensor.to(device) for tensor in (ids, mask, weights, lines))
        hidden = self.model.model(input_ids=ids, attention_mask=mask, **self.media(rows)).last_hidden_state
        kept = weights[:, 1:] > 0
        with torch.autocast(hidden.device.type, enabled=False):  # half precision would blur the labels' logits
            logits = self.model.lm_head(hidden[:, :-1][kept].to(self.model.lm_head.weight.dtype)).float()
        expected, weight = ids[:, 1:][kept], weights[:, 1:][kept]
        losses = F.cross_entropy(logits, expected, reduction="none")
        right, line = (logits.argmax(-1) == expected).float(), lines[:, 1:][kept]
        base = self.model.model
        modes = touched(base.video_mode, base.audio_mode, base.history_mode).to(losses.device)
        metrics = {"loss": (losses * weight).sum() / len(rows) + modes}
        for number, name in enumerate(("client", "therapist", "strategy", "reply")):
            if bool((line == number).any()):
                metrics[f"{name}/nats"] = losses[line == number].detach().mean()
                metrics[f"{name}/accuracy"] = right[line == number].mean()
        return metrics

    def media(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """The rows' media as the model's arguments, on its device."""
        base, device = self.model.model, self.model.lm_head.weight.device
        arguments: dict[str, Tensor] = {
            "video_modes": torch.tensor([VIDEO_MODES.index("missing" if r.video is None else "used") for r in rows]),
            "audio_modes": torch.tensor([AUDIO_MODES.index("missing" if r.audio is None else "used") for r in rows]),
        }
        videos = [r.video for r in rows if r.video is not None]
        if videos:
            frames = max(len(v) for v in videos)
            arguments["video_features"] = torch.zeros(len(rows), frames, *videos[0].shape[1:], device=device)
            arguments["video_frames"] = torch.tensor([0 if r.video is None else len(r.video) for r in rows])
            for i, row in enumerate(rows):
                if row.video is not None:
                    seen = standardised(base.vision_tower, row.video.to(device))
                    arguments["video_features"][i, : len(row.video)] = seen
        audios = [r.audio for r in rows if r.audio is not None]
        if audios:
            steps = max(len(a) for a in audios)
            arguments["audio_features"] = torch.zeros(len(rows), steps, audios[0].shape[1], device=device)
            arguments["audio_mask"] = torch.zeros(len(rows), steps, dtype=torch.bool)
            for i, row in enumerate(rows):
                if row.audio is not None:
                    heard = standardised(base.audio_tower, row.audio.to(device))
                    arguments["audio_features"][i, : len(row.audio)] = heard
                    arguments["audio_mask"][i, : len(row.audio)] = True
        if any(row.history for row in rows):
            arguments["history_ids"], arguments["history_mask"] = self.processor.pad([row.history for row in rows])
        return {name: value.to(device) for name, value in arguments.items()}


def _view(views: Sequence[Tensor], rng: random.Random, read: bool) -> Tensor:
    index = rng.randrange(len(views))
    if read or not isinstance(views, Views):
        return views[index]
    return torch.empty(views.shape(index), device="meta")


def shape_of(config: SftConfig) -> MultiMoodConfig:
    """The shape of the model that is fine-tuned: that of the aligned projectors where they are there."""
    aligned = config.projectors
    known = aligned is not None and (aligned / "config.json").is_file()
    return MultiMoodConfig.from_pretrained(aligned or "") if known else read_model_config(config.model)


def build_task(
    config: SftConfig, model: MultiMoodForConditionalGeneration, processor: MultiMoodProcessor, split: str = "train"
) -> SftTask:
    """The mixture over one split of MESC, with acted clips and, where the turns have clips, these."""
    dialogues = read_split(CORPUS, split, config.data)
    own: dict[str, TurnViews] = {}
    if paths := media_of(dialogues, config.data_sets):
        found = cache_of(config).turns(paths)
        names = dict.fromkeys(turn.media for dialogue in dialogues for turn in dialogue.turns if turn.media)
        own = dict(zip(names, found, strict=True))
    sentences = read_split(SENTENCES, "train", config.data) if config.sentences and split == "train" else ()
    return SftTask(config, model, processor, dialogues, collect(config), own, sentences)
