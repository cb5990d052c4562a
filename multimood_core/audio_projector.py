"""The projector between audio tower and language model, in the two kinds that published checkpoints use.

VideoLLaMA2.1-AV has ``mlp2x_gelu`` (linear, GELU, linear), MultiMood's released runs have ``linear``. The kind is not
written down reliably beside the weights, but the keys of the state dict tell it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, cast, get_args

from torch import Tensor, nn

from multimood_core.errors import ModelError

AudioProjectorKind = Literal["mlp2x_gelu", "linear"]

_KINDS: Final = cast(tuple[AudioProjectorKind, ...], get_args(AudioProjectorKind))


def build_audio_projector(kind: str, input_size: int, output_size: int) -> nn.Module:
    """Build a projector (B, S, input_size) -> (B, S, output_size) whose state-dict keys are the hub's.

    Raises:
        ModelError: an unknown ``kind``.
    """
    if kind == "linear":
        return nn.Linear(input_size, output_size)
    if kind == "mlp2x_gelu":
        return nn.Sequential(nn.Linear(input_size, output_size), nn.GELU(), nn.Linear(output_size, output_size))
    raise ModelError(f"The audio projector's kind must be one of {', '.join(_KINDS)}, but got {kind!r}.")


def audio_projector_kind(state_dict: Mapping[str, Tensor]) -> AudioProjectorKind:
    """Tell the projector's kind from its keys, prefix already cut off (``weight`` or ``0.weight`` and ``2.weight``).

    Raises:
        ModelError: the keys are those of neither kind.
    """
    for kind in _KINDS:
        # Built one wide: only the names count.
        if set(state_dict) == set(build_audio_projector(kind, 1, 1).state_dict()):
            return kind
    shown = ", ".join(sorted(state_dict)[:20]) or "no keys"
    raise ModelError(
        "The audio projector's keys must be weight and bias (linear) or 0.weight, 0.bias, 2.weight and 2.bias "
        f"(mlp2x_gelu), but got {shown}. Cut the prefix off, or use a checkpoint with one of these projectors."
    )
