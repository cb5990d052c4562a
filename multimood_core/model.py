"""The model: frozen towers, trained projectors and compressor, and a language model that reads all of them.

O = Psi(phi, E, Omega, C, P) (paper, eq. 1-4): features take the place of ``<video>``, ``<audio>`` and ``<history>`` among
the word embeddings. The splice lives in ``MultiMoodModel``, because trainers call the base model and put a head of their
own on it; ``MultiMoodForConditionalGeneration`` adds the vocabulary head and generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, get_args

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    Cache,
    GenerationMixin,
    MambaConfig,
    PreTrainedModel,
    SiglipVisionConfig,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from multimood_core.audio_projector import build_audio_projector
from multimood_core.beats import BeatsConfig, BeatsTower
from multimood_core.config import MultiMoodConfig
from multimood_core.conv_compressor import CompressedHistory, CompressorState, ConvCompressor
from multimood_core.errors import ModelError
from multimood_core.face_tower import FaceTower, FaceTowerConfig
from multimood_core.labels import MEDIA_EMOTIONS
from multimood_core.records import AudioMode, VideoMode
from multimood_core.siglip_tower import SiglipTower
from multimood_core.stc_connector import STCConnector
from multimood_core.voice_tower import VoiceTower, VoiceTowerConfig

VIDEO_MODES: Final[tuple[str, ...]] = get_args(VideoMode)  # the index is the id; 0 = used
AUDIO_MODES: Final[tuple[str, ...]] = get_args(AudioMode)
MEDIA_ARGUMENTS: Final = (
    "video_features",
    "video_frames",
    "video_modes",
    "audio_features",
    "audio_mask",
    "audio_modes",
    "history_ids",
    "history_mask",
    "history_memory",
    "history_memory_mask",
)


class MultiMoodPreTrainedModel(PreTrainedModel):
    config_class = MultiMoodConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True


def _build_vision_tower(config: MultiMoodConfig) -> SiglipTower | FaceTower:
    settings = config.vision.settings or {}
    if config.vision.tower == "siglip":
        return SiglipTower(SiglipVisionConfig(**settings))
    if config.vision.tower == "face":
        return FaceTower(FaceTowerConfig(**settings))
    raise ModelError(f"The vision tower must be siglip or face, but got {config.vision.tower!r}.")


def _build_audio_tower(config: MultiMoodConfig) -> BeatsTower | VoiceTower:
    settings = config.audio.settings or {}
    if config.audio.tower == "beats":
        return BeatsTower(BeatsConfig(**settings))
    if config.audio.tower == "voice":
        return VoiceTower(VoiceTowerConfig(**settings))
    raise ModelError(f"The audio tower must be beats or voice, but got {config.audio.tower!r}.")


class MultiMoodModel(MultiMoodPreTrainedModel):
    """Towers, projectors, compressor and language model without a head; here the media are spliced in.

    A modality that is not there is said, not zeroed: its placeholder stands once and holds a learned embedding of the
    reason (``VIDEO_MODES``, ``AUDIO_MODES``); an empty history likewise.
    """

    def __init__(self, config: MultiMoodConfig) -> None:
        super().__init__(config)
        width = config.llm_size
        self.vision_tower = _build_vision_tower(config)
        self.audio_tower = _build_audio_tower(config)
        self.vision_projector = STCConnector(self.vision_tower.hidden_size, width, depth=config.stc_depth)
        self.audio_projector = build_audio_projector(config.audio_projector, self.audio_tower.hidden_size, width)
        self.compressor: ConvCompressor | None = None
        if isinstance(config.compressor_config, MambaConfig):
            self.compressor = ConvCompressor(
                config.compressor_config,
                width,
                -1 if config.memory_token_id is None else config.memory_token_id,
                config.compressor_shares_embeddings,
            )
        self.video_mode = nn.Embedding(len(VIDEO_MODES), width)
        self.audio_mode = nn.Embedding(len(AUDIO_MODES), width)
        self.history_mode = nn.Embedding(1, width)
        if config.expression_heads:
            self.expression_heads = nn.ModuleDict({m: nn.Linear(width, len(MEDIA_EMOTIONS)) for m in ("voice", "face")})
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    # -- modalities ------------------------------------------------------------------------------------------------

    @property
    def embedded_towers(self) -> tuple[VoiceTower, FaceTower]:
        """The towers of the embedded model.

        Raises:
            ModelError: this model has the towers of the paper's scale.
        """
        if not (isinstance(self.audio_tower, VoiceTower) and isinstance(self.vision_tower, FaceTower)):
            raise ModelError(
                "Expected the towers voice and face, but the configuration says "
                f"{self.config.audio.tower} and {self.config.vision.tower}. Use a configuration of the embedded model."
            )
        return self.audio_tower, self.vision_tower

    def encode_audio(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Run the audio tower.

        Args:
            inputs: ``voice``: waveforms (B, N) at 16 kHz; ``beats``: filterbanks (B, frames, 128).
            lengths: (B,) samples or frames that are no padding.

        Returns:
            Features (B, S, D) and their mask (B, S) bool.
        """
        if isinstance(self.audio_tower, BeatsTower):
            padding = torch.arange(inputs.shape[1], device=inputs.device) >= lengths[:, None]
            return self.audio_tower(inputs, padding), ~self.audio_tower.token_padding(padding)
        return self.audio_tower(inputs, lengths)

    def project_video(self, features: Tensor, frames: Tensor) -> list[Tensor]:
        """Vision features (B, T, P, D) with ``frames`` (B,) valid ones each -> B tensors (tokens, D_llm)."""
        weight = next(self.vision_projector.parameters())
        projected: list[Tensor | None] = [None] * len(features)
        for count in frames.unique().tolist():  # the connector convolves over time, so no padding may enter it
            rows = (frames == count).nonzero().flatten()
            for row, tokens in zip(
                rows.tolist(), self.vision_projector(features[rows, :count].to(weight)), strict=True
            ):
                projected[row] = tokens
        return [p for p in projected if p is not None]

    def project_audio(self, features: Tensor, mask: Tensor) -> list[Tensor]:
        """Audio features (B, S, D) with their mask (B, S) -> B tensors (tokens, D_llm)."""
        projected = self.audio_projector(features.to(next(self.audio_projector.parameters())))
        return [row[valid] for row, valid in zip(projected, mask.bool(), strict=True)]

    def expression(self, modality: str, tokens: Tensor) -> Tensor:
        """What one modality alone shows: probabilities (6,) over ``MEDIA_EMOTIONS`` from its projected tokens (n, D_llm).

        Raises:
            ModelError: the model has no expression heads (paper-scale checkpoints have none).
        """
        if not self.config.expression_heads:
            raise ModelError("This checkpoint has no expression heads; use one trained with expression_heads.")
        return self.expression_heads[modality](tokens.mean(0)).softmax(-1)

    def compress(
        self, history_ids: Tensor, history_mask: Tensor | None = None, state: CompressorState | None = None
    ) -> CompressedHistory:
        """Fold turns (B, H), each closed by ``<MEM>``, into the compressor (paper, eq. 3).

        Raises:
            ModelError: the model was built without a compressor.
        """
        if self.compressor is None:
            raise ModelError("This checkpoint has no compressor; give the history as text or use one that has it.")
        embeddings = None
        if self.compressor.shared_embeddings:
            embeddings = self.get_input_embeddings()(history_ids)
        return self.compressor(history_ids, embeddings, history_mask, state)

    # -- splice ----------------------------------------------------------------------------------------------------

    def _splice(self, embeds: Tensor, mask: Tensor, rows: Sequence[Tensor], what: str) -> Tensor:
        expected, got = mask.sum(1).tolist(), [len(row) for row in rows]
        if expected != got:
            raise ModelError(
                f"Expected as many {what} placeholders as features in every row, but the prompts have {expected} and the "
                f"features are {got}. Expand the placeholders with the processor, and pass the media they stand for."
            )
        return embeds.masked_scatter(mask.unsqueeze(-1), torch.cat([row.to(embeds) for row in rows]))

    def embed(
        self,
        input_ids: Tensor,
        video_features: Tensor | None = None,
        video_frames: Tensor | None = None,
        video_modes: Tensor | None = None,
        audio_features: Tensor | None = None,
        audio_mask: Tensor | None = None,
        audio_modes: Tensor | None = None,
        history_ids: Tensor | None = None,
        history_mask: Tensor | None = None,
        history_memory: Tensor | None = None,
        history_memory_mask: Tensor | None = None,
    ) -> Tensor:
        """Word embeddings (B, L, D_llm) with video, audio and history in their places.

        A prompt may come in stretches, each with the media whose placeholders it holds: a modality without arguments and
        without a placeholder is not in this stretch.

        Args:
            input_ids: (B, L), placeholders expanded to the number of features.
            video_features: (B, T, P, D) from the vision tower; rows of ``video_modes`` other than 0 are ignored.
            video_frames: (B,) valid frames of each row; all T when None.
            video_modes: (B,) index into ``VIDEO_MODES``; all "used" when features are given, else all "missing".
            audio_features: (B, S, D) from the audio tower.
            audio_mask: (B, S) bool; all True when None.
            audio_modes: (B,) index into ``AUDIO_MODES``, likewise.
            history_ids: (B, H) turns closed by ``<MEM>``, right-padded; a row without ``<MEM>`` is an empty history.
            history_mask: (B, H).
            history_memory: (B, M, D_llm), what ``compress`` gave, instead of ``history_ids``.
            history_memory_mask: (B, M) bool; all True when None.

        Raises:
            ModelError: the number of placeholders differs from the number of features.
        """
        video_id, audio_id, history_id, _ = self.config.media_token_ids
        history = (history_ids, history_mask, history_memory, history_memory_mask)
        embeds = self.get_input_embeddings()(input_ids)
        for what, token_id, given, rows in (
            ("<video>", video_id, (video_features, video_frames, video_modes), self._video_rows),
            ("<audio>", audio_id, (audio_features, audio_mask, audio_modes), self._audio_rows),
            ("<history>", history_id, history, self._history_rows),
        ):
            mask = input_ids == token_id
            if any(argument is not None for argument in given) or bool(mask.any()):
                embeds = self._splice(embeds, mask, rows(len(input_ids), *given), what)
        return embeds

    def _video_rows(
        self, batch: int, features: Tensor | None, frames: Tensor | None, modes: Tensor | None
    ) -> list[Tensor]:
        if modes is None:
            modes = torch.full((batch,), 0 if features is not None else 1)
        rows = [self.video_mode.weight[mode][None] for mode in modes.tolist()]
        used = (modes == 0).nonzero().flatten()
        if len(used):
            if features is None:
                raise ModelError("video_modes says that video is used, but video_features is None.")
            used = used.to(features.device)
            frames = torch.full((batch,), features.shape[1], device=features.device) if frames is None else frames
            for row, tokens in zip(used.tolist(), self.project_video(features[used], frames[used]), strict=True):
                rows[row] = tokens
        return rows

    def _audio_rows(
        self, batch: int, features: Tensor | None, mask: Tensor | None, modes: Tensor | None
    ) -> list[Tensor]:
        if modes is None:
            modes = torch.full((batch,), 0 if features is not None else 1)
        rows = [self.audio_mode.weight[mode][None] for mode in modes.tolist()]
        used = (modes == 0).nonzero().flatten()
        if len(used):
            if features is None:
                raise ModelError("audio_modes says that audio is used, but audio_features is None.")
            used = used.to(features.device)
            mask = features.new_ones(features.shape[:2]) if mask is None else mask
            for row, tokens in zip(used.tolist(), self.project_audio(features[used], mask[used]), strict=True):
                rows[row] = tokens
        return rows

    def _history_rows(
        self,
        batch: int,
        ids: Tensor | None,
        mask: Tensor | None,
        memory: Tensor | None,
        memory_mask: Tensor | None,
    ) -> list[Tensor]:
        empty = self.history_mode.weight
        if memory is not None:
            kept = [row if memory_mask is None else row[memory_mask[i].bool()] for i, row in enumerate(memory)]
            return [row if len(row) else empty for row in kept]
        if ids is None or ids.shape[1] == 0:
            return [empty] * batch
        closed = ids == self.config.media_token_ids[3]
        counts = (closed if mask is None else closed & mask.bool()).sum(1).tolist()
        rows = self.compress(ids, mask).memory.split(counts)
        return [row if len(row) else empty.to(row) for row in rows]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Splice (see ``embed`` for the media arguments) and run the language model: last hidden states (B, L, D_llm).

        Raises:
            ModelError: neither or both of ``input_ids`` and ``inputs_embeds``.
        """
        media = {name: kwargs.pop(name, None) for name in MEDIA_ARGUMENTS}
        if (input_ids is None) == (inputs_embeds is None):
            raise ModelError("Pass exactly one of input_ids and inputs_embeds.")
        if input_ids is not None:
            inputs_embeds = self.embed(input_ids, **media)
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )


class MultiMoodForConditionalGeneration(MultiMoodPreTrainedModel, GenerationMixin):
    """``MultiMoodModel`` with the vocabulary head."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    def __init__(self, config: MultiMoodConfig) -> None:
        super().__init__(config)
        self.model = MultiMoodModel(config)
        self.lm_head = nn.Linear(config.llm_size, config.text.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        video_features: Tensor | None = None,
        video_frames: Tensor | None = None,
        video_modes: Tensor | None = None,
        audio_features: Tensor | None = None,
        audio_mask: Tensor | None = None,
        audio_modes: Tensor | None = None,
        history_ids: Tensor | None = None,
        history_mask: Tensor | None = None,
        history_memory: Tensor | None = None,
        history_memory_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Next-token logits (B, L or ``logits_to_keep``, vocabulary) and, with ``labels`` (B, L; -100 ignored), the loss.

        The media arguments are those of ``MultiMoodModel.embed``; they are spelt out because trainers and ``generate``
        read this signature to know what the model takes.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            video_features=video_features,
            video_frames=video_frames,
            video_modes=video_modes,
            audio_features=audio_features,
            audio_mask=audio_mask,
            audio_modes=audio_modes,
            history_ids=history_ids,
            history_mask=history_mask,
            history_memory=history_memory,
            history_memory_mask=history_memory_mask,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, kept].to(self.lm_head.weight.dtype))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.text.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def prepare_inputs_for_generation(self, *args: Any, past_key_values: Cache | None = None, **kwargs: Any) -> dict[str, Any]:
        """Pass the media with the prompt only; later steps read them from the cache."""
        media = {name: kwargs.pop(name) for name in MEDIA_ARGUMENTS if name in kwargs}
        parent: Any = super()
        inputs = parent.prepare_inputs_for_generation(*args, past_key_values=past_key_values, **kwargs)
        started = past_key_values is not None and past_key_values.get_seq_length() > 0
        return inputs if started else inputs | media


AutoModel.register(MultiMoodConfig, MultiMoodModel)
AutoModelForCausalLM.register(MultiMoodConfig, MultiMoodForConditionalGeneration)
