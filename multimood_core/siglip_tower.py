"""SigLIP, the paper-scale vision tower: patch features of every frame from the last but one layer."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from multimood_core.errors import ModelError


class SiglipTower(nn.Module):
    """Frozen SigLIP: (B, T, 3, H, W) -> (B, T, P, D), before the last layer and its norm (``hidden_states[-2]``).

    The last layer, the norm and the pooling head are built, since checkpoints hold them, but not run. Keys are
    ``vision_tower.vision_model.*`` as in the hub's checkpoints; transformers has dropped the inner prefix.

    Raises:
        ModelError: a configuration of fewer than two layers.
    """

    name = "siglip"

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        if config.num_hidden_layers < 2:
            raise ModelError(
                f"The SigLIP tower reads the last layer but one and needs 2, but got {config.num_hidden_layers}. "
                "Correct the vision tower's configuration."
            )
        self.vision_tower = nn.ModuleDict({"vision_model": SiglipVisionModel(config)})
        self.hidden_size: int = config.hidden_size
        self.image_size = cast(int, config.image_size)
        self.grid = self.image_size // cast(int, config.patch_size)  # patches a side
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> SiglipTower:
        """Stay in evaluation mode, whatever the model around does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode frames.

        Args:
            pixel_values: (B, T, 3, image_size, image_size), normalised to mean 0.5 and deviation 0.5.

        Returns:
            (B, T, grid * grid, hidden_size), patches row by row, in the weights' precision.

        Raises:
            ModelError: another shape.
        """
        side = self.image_size
        if pixel_values.dim() != 5 or pixel_values.shape[2:] != (3, side, side):
            raise ModelError(
                f"The SigLIP tower expects frames (B, T, 3, {side}, {side}), but got {tuple(pixel_values.shape)}. "
                "Pad the frames to a square and resize them with the tower's own image processor."
            )
        model = cast(SiglipVisionModel, self.vision_tower["vision_model"])
        hidden = model.embeddings(pixel_values.flatten(0, 1))  # (B*T, P, D)
        for layer in model.encoder.layers[:-1]:
            hidden = layer(hidden, None)
        return hidden.unflatten(0, pixel_values.shape[:2])
