"""Configuration of the one model: the paper's 7B and the embedded default differ in what stands here, and in weights."""

from __future__ import annotations

from typing import Any, Literal, cast

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, LlamaConfig, MambaConfig, PreTrainedConfig

from multimood_core.errors import ModelError
from multimood_core.records import NUM_FRAMES
from multimood_core.stc_connector import stc_tokens

VisionTowerName = Literal["siglip", "face"]
AudioTowerName = Literal["beats", "voice"]


@strict
class VisionConfig(PreTrainedConfig):
    """The frozen vision tower.

    Args:
        tower: ``siglip`` (SigLIP-So400M-patch14-384 at paper scale) or ``face`` (face crops through an expression network).
        hidden_size: width D of the patch features.
        grid: patches a side; a frame gives grid * grid patches.
        settings: the tower's own configuration, as its configuration class takes it.
    """

    model_type = "multimood_vision"

    tower: str = "face"
    hidden_size: int = 135
    grid: int = 4
    settings: dict[str, Any] | None = None


@strict
class AudioConfig(PreTrainedConfig):
    """The frozen audio tower.

    Args:
        tower: ``beats`` (BEATs iter3+ at paper scale) or ``voice`` (embedded: speech encoder and prosody).
        hidden_size: width D of the features.
        settings: the tower's own configuration, as its configuration class takes it.
    """

    model_type = "multimood_audio"

    tower: str = "voice"
    hidden_size: int = 768
    settings: dict[str, Any] | None = None


@strict
class MultiMoodConfig(PreTrainedConfig):
    """Configuration of ``MultiMoodModel`` and ``MultiMoodForConditionalGeneration``.

    Args:
        text_config: any HF causal language model's configuration (Qwen2-7B, SmolLM2-135M).
        vision_config: the vision tower.
        audio_config: the audio tower.
        compressor_config: the Mamba of the ConvCompressor; None builds a model without ``<history>``.
        compressor_shares_embeddings: the compressor reads the language model's token embeddings.
        stc_depth: blocks in each RegStage of the STC connector (paper scale: 4).
        audio_projector: ``mlp2x_gelu`` or ``linear``.
        num_frames: frames a turn (paper: 16; released code: 8).
        prompt: which wording of the prompt the weights were trained with (``ecot`` or ``brief``).
        recent_turns: turns that stand as text beside ``<history>``; 0 leaves the compressed history alone.
        guesses: labels that nobody confirmed stand in the history too, marked with "?".
        expression_heads: linear read-outs of voice and face alone, for the live view and the conflict measure.
        video_token_id, audio_token_id, history_token_id, memory_token_id: ids of the real tokens in the vocabulary.
    """

    model_type = "multimood"
    sub_configs = {
        "text_config": AutoConfig,
        "vision_config": VisionConfig,
        "audio_config": AudioConfig,
        "compressor_config": MambaConfig,
    }

    text_config: dict | PreTrainedConfig | None = None
    vision_config: dict | PreTrainedConfig | None = None
    audio_config: dict | PreTrainedConfig | None = None
    compressor_config: dict | PreTrainedConfig | None = None
    compressor_shares_embeddings: bool = False
    stc_depth: int = 4
    audio_projector: str = "mlp2x_gelu"
    num_frames: int = NUM_FRAMES
    prompt: str = "ecot"
    recent_turns: int = 4
    guesses: bool = False
    expression_heads: bool = False
    video_token_id: int | None = None
    audio_token_id: int | None = None
    history_token_id: int | None = None
    memory_token_id: int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.text_config, dict):
            text = dict(self.text_config)
            self.text_config = AutoConfig.for_model(text.pop("model_type", "llama"), **text)
        elif self.text_config is None:
            self.text_config = LlamaConfig()
        if not isinstance(self.vision_config, PreTrainedConfig):
            self.vision_config = VisionConfig(**(self.vision_config or {}))
        if not isinstance(self.audio_config, PreTrainedConfig):
            self.audio_config = AudioConfig(**(self.audio_config or {}))
        if isinstance(self.compressor_config, dict):
            self.compressor_config = MambaConfig(**self.compressor_config)
        self.tie_word_embeddings = bool(self.text.tie_word_embeddings)
        super().__post_init__(**kwargs)

    @property
    def text(self) -> PreTrainedConfig:
        """``text_config``, which is an object however it was given; likewise ``vision`` and ``audio``."""
        return cast(PreTrainedConfig, self.text_config)

    @property
    def vision(self) -> VisionConfig:
        return cast(VisionConfig, self.vision_config)

    @property
    def audio(self) -> AudioConfig:
        return cast(AudioConfig, self.audio_config)

    @property
    def llm_size(self) -> int:
        """Width of the language model's embeddings."""
        return self.text.hidden_size

    def video_tokens(self, frames: int) -> int:
        """Tokens that stand for a video of ``frames`` frames (16 frames of 27 x 27 patches: 1352)."""
        return stc_tokens(frames, self.vision.grid)

    @property
    def media_token_ids(self) -> tuple[int, int, int, int]:
        """Ids of ``<video>``, ``<audio>``, ``<history>`` and ``<MEM>``.

        Raises:
            ModelError: one of them has none yet.
        """
        ids = {
            name: getattr(self, name) for name in ("video_token_id", "audio_token_id", "history_token_id", "memory_token_id")
        }
        absent = [name for name, value in ids.items() if value is None]
        if absent:
            raise ModelError(
                f"Expected ids of the placeholder tokens in the configuration, but {', '.join(absent)} is None. "
                "Set them with the processor: processor.register(config)."
            )
        video, audio, history, memory = ids.values()
        return video, audio, history, memory


AutoConfig.register("multimood_vision", VisionConfig)
AutoConfig.register("multimood_audio", AudioConfig)
AutoConfig.register("multimood", MultiMoodConfig)
