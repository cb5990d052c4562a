"""ConvCompressor: a Mamba that folds each turn of a dialogue into one ``<MEM>`` state (paper, eq. 3; Mamba, alg. 2).

H' = U_1 <MEM> U_2 <MEM> ... is read left to right; the hidden states at ``<MEM>`` are projected to the language model's
width and stand in the prompt where ``<history>`` is. A state space model carries all of the past in a state of fixed
size, so a session folds each turn once: ``fold`` costs the new turn's tokens only, however long the session is.

transformers' ``MambaModel`` holds the parameters (and so the released checkpoints' key names), but its scan starts from
zero whenever more than one token comes at a time. The forward pass here starts from any state.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import MambaConfig, MambaModel

from multimood_core.errors import ModelError


@dataclass(frozen=True, slots=True)
class CompressorState:
    """All that the compressor remembers of the turns read so far; immutable, so an older one is a way back.

    ``conv`` (layers, B, d_inner, kernel - 1): the last inputs of each causal convolution.
    ``ssm`` (layers, B, d_inner, d_state) float32: the state space of each layer.
    """

    conv: Tensor
    ssm: Tensor

    def save(self, path: Path) -> None:
        """Write the state to a safetensors file."""
        save_file({"conv": self.conv.contiguous(), "ssm": self.ssm.contiguous()}, path)

    @classmethod
    def load(cls, path: Path) -> CompressorState:
        """Read a state that ``save`` wrote."""
        return cls(**load_file(path))


@dataclass(frozen=True, slots=True)
class CompressedHistory:
    """``memory`` (n_mem, D_llm): one row for each ``<MEM>``, dialogue after dialogue of the batch; and the end state."""

    memory: Tensor
    state: CompressorState


@functools.cache
def scan_kernel() -> Callable[..., Any] | None:
    """mamba-ssm's fused scan where that package is installed (CUDA alone), and None elsewhere: then the loop below runs."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        return None
    return selective_scan_fn


def scan_with(
    kernel: Callable[..., Any], x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """``selective_scan`` by a kernel that starts from zero; where it should not, what the state adds is added.

    The recurrence is linear in the state: h_0 alone gives y_t = C_t exp(A sum(dt_1..t)) h_0.
    """
    rows = [tensor.transpose(1, 2).contiguous() for tensor in (x, dt, b, c)]  # (B, d, L), as the kernel takes them
    y, last = kernel(rows[0], rows[1], a, rows[2], rows[3], return_last_state=True)
    y = y.transpose(1, 2)
    if state is not None:
        kept = torch.exp(dt.cumsum(1).unsqueeze(-1) * a) * state.unsqueeze(1)  # (B, L, d_inner, d_state)
        y, last = y + torch.einsum("bldn,bln->bld", kept, c), last + kept[:, -1]
    return y, last


def selective_scan(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The recurrence h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t, y_t = C_t h_t (Mamba, eq. 2 and alg. 2), in float32.

    Args:
        x: inputs (B, L, d_inner).
        dt: step sizes after softplus (B, L, d_inner); 0 leaves the state as it is, which is how padding is skipped.
        a: (d_inner, d_state), negative.
        b: (B, L, d_state).
        c: (B, L, d_state).
        state: h_0 (B, d_inner, d_state); zeros when None.

    Returns:
        y (B, L, d_inner) and the last state (B, d_inner, d_state).
    """
    kernel = scan_kernel() if x.is_cuda else None
    if kernel:
        return scan_with(kernel, x, dt, a, b, c, state)
    if state is None:
        state = x.new_zeros(len(x), *a.shape)
    decay = torch.exp(dt.unsqueeze(-1) * a)  # (B, L, d_inner, d_state)
    inputs = (dt * x).unsqueeze(-1) * b.unsqueeze(2)
    states = []
    for decay_t, input_t in zip(decay.unbind(1), inputs.unbind(1), strict=True):
        state = decay_t * state + input_t
        states.append(state)
    y = torch.einsum("bldn,bln->bld", torch.stack(states, 1), c)
    return y, state


class ConvCompressor(nn.Module):
    """Mamba + projection, in the released layout at any size.

    With ``shared_embeddings`` the compressor reads the language model's own (frozen) token embeddings through a small
    projection and owns the embedding of ``<MEM>`` alone: at mini scale a second 49,152-row table would be most of the
    checkpoint.
    """

    CONFIG_FILE: Final = "config.json"
    PROJECTION_FILE: Final = "memory_projection.pt"

    def __init__(self, config: MambaConfig, llm_size: int, memory_token_id: int, shared_embeddings: bool = False) -> None:
        super().__init__()
        self.memory_token_id = memory_token_id
        self.shared_embeddings = shared_embeddings
        self.mamba = MambaModel(config)
        self.memory_projection = nn.Linear(config.hidden_size, llm_size)
        if shared_embeddings:
            self.embedding_projection = nn.Linear(llm_size, config.hidden_size, bias=False)

    @property
    def config(self) -> MambaConfig:
        return self.mamba.config

    def initial_state(self, batch_size: int = 1) -> CompressorState:
        """The state before the first turn: zeros."""
        cfg, device = self.config, self.memory_projection.weight.device
        shape = (cfg.num_hidden_layers, batch_size, cfg.intermediate_size)
        dtype = self.memory_projection.weight.dtype
        return CompressorState(
            conv=torch.zeros(*shape, cfg.conv_kernel - 1, device=device, dtype=dtype),
            ssm=torch.zeros(*shape, cfg.state_size, device=device, dtype=torch.float32),
        )

    def forward(
        self,
        input_ids: Tensor,
        token_embeddings: Tensor | None = None,
        attention_mask: Tensor | None = None,
        state: CompressorState | None = None,
    ) -> CompressedHistory:
        """Read turns, each closed by ``<MEM>``, from ``state`` on.

        Args:
            input_ids: (B, L), right-padded.
            token_embeddings: (B, L, D_llm) of the same tokens from the language model, where they are shared.
            attention_mask: (B, L), 1 for tokens and 0 for padding on the right; all ones when None.
            state: where to go on from; the empty state when None.

        Raises:
            ModelError: ``token_embeddings`` is given and not wanted, or the other way round.
        """
        if self.shared_embeddings != (token_embeddings is not None):
            wanted = "needs" if self.shared_embeddings else "does not take"
            raise ModelError(f"This compressor {wanted} the language model's token embeddings; see shared_embeddings.")
        is_memory = input_ids == self.memory_token_id
        if token_embeddings is None:
            hidden = self.mamba.embeddings(input_ids)
        else:
            hidden = self.embedding_projection(token_embeddings.to(self.memory_projection.weight.dtype))
            hidden = torch.where(is_memory.unsqueeze(-1), self.mamba.embeddings.weight[0], hidden)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        before = state or self.initial_state(len(input_ids))

        convs, ssms = [], []
        blocks: Iterable[Any] = self.mamba.layers
        for layer, conv, ssm in zip(blocks, before.conv, before.ssm, strict=True):
            mixed, conv, ssm = self._mix(layer.mixer, layer.norm(hidden), mask, conv, None if state is None else ssm)
            hidden = hidden + mixed
            convs.append(conv)
            ssms.append(ssm)
        hidden = self.mamba.norm_f(hidden)  # (B, L, D)
        memory = self.memory_projection(hidden[is_memory & mask.bool()])
        return CompressedHistory(memory, CompressorState(torch.stack(convs), torch.stack(ssms)))

    def _mix(
        self, mixer: Any, hidden: Tensor, mask: Tensor, conv: Tensor, ssm: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, gate = (mixer.in_proj(hidden) * mask.unsqueeze(-1)).chunk(2, dim=-1)  # (B, L, d_inner) each
        padded = torch.cat([conv, x.transpose(1, 2)], dim=-1)
        # The convolution's memory are the last inputs that are no padding: they end at each row's own length.
        kernel = conv.shape[-1]
        ends = mask.sum(1)[:, None] + torch.arange(kernel, device=mask.device)  # (B, kernel) into ``padded``
        conv = padded.gather(-1, ends.unsqueeze(1).expand(-1, padded.shape[1], -1))
        x = F.silu(F.conv1d(padded, mixer.conv1d.weight, mixer.conv1d.bias, groups=x.shape[-1])).transpose(1, 2)
        sizes = [mixer.time_step_rank, mixer.ssm_state_size, mixer.ssm_state_size]
        rank, b, c = mixer.x_proj(x).float().split(sizes, dim=-1)
        dt = F.softplus(F.linear(rank, mixer.dt_proj.weight.float(), mixer.dt_proj.bias.float())) * mask.unsqueeze(-1)
        y, last = selective_scan(x.float(), dt, -torch.exp(mixer.A_log.float()), b, c, ssm)
        y = (y + x.float() * mixer.D.float()) * F.silu(gate.float())
        return mixer.out_proj(y.to(hidden.dtype)), conv, last

    def save_pretrained(self, folder: Path) -> None:
        """Write the released layout: ``mamba/``, ``memory_projection.pt``, ``config.json``.

        Raises:
            ModelError: the compressor shares the language model's embeddings, which that layout cannot hold.
        """
        if self.shared_embeddings:
            raise ModelError("The released compressor layout holds its own embeddings; this compressor shares the LLM's.")
        self.mamba.save_pretrained(folder / "mamba")
        torch.save(self.memory_projection.state_dict(), folder / self.PROJECTION_FILE)
        sizes = {
            "llm_input_size": self.memory_projection.out_features,
            "mamba_hidden_size": self.config.hidden_size,
            "mem_token_id": self.memory_token_id,
        }
        (folder / self.CONFIG_FILE).write_text(json.dumps(sizes, indent=1))

    @classmethod
    def from_pretrained(cls, folder: Path) -> ConvCompressor:
        """Read the released layout, strictly.

        Raises:
            ModelError: a file is absent, or keys or shapes differ from what the configuration says.
        """
        try:
            sizes = json.loads((folder / cls.CONFIG_FILE).read_text())
            compressor = cls(
                MambaConfig.from_pretrained(folder / "mamba"), sizes["llm_input_size"], sizes["mem_token_id"]
            )
            compressor.mamba.load_state_dict(load_file(folder / "mamba" / "model.safetensors"))
            projection = torch.load(folder / cls.PROJECTION_FILE, weights_only=True, map_location="cpu")
            compressor.memory_projection.load_state_dict(projection)
        except (OSError, KeyError, RuntimeError) as cause:
            raise ModelError(
                f"Expected a compressor folder (mamba/, {cls.PROJECTION_FILE}, {cls.CONFIG_FILE}) in {folder}: {cause}"
            ) from cause
        return compressor
