"""Several commands in one process: each begins as in a process of its own."""

from __future__ import annotations

from accelerate.state import AcceleratorState, GradientState, PartialState


def forget_process() -> None:
    """Forget accelerate's choices (devices, precision), which it lets a process make once."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
