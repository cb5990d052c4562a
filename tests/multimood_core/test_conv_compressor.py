"""The compressor reproduces the released layout and reads a session turn by turn without re-reading it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import MambaConfig, MambaModel

from multimood_core.conv_compressor import CompressorState, ConvCompressor, scan_kernel, scan_with, selective_scan
from multimood_core.errors import ModelError

MEM = 40


def tiny(shared: bool = False) -> ConvCompressor:
    torch.manual_seed(3)
    config = MambaConfig(
        vocab_size=1 if shared else 41, hidden_size=16, num_hidden_layers=2, state_size=4, initializer_range=0.5
    )
    return ConvCompressor(config, llm_size=12, memory_token_id=MEM, shared_embeddings=shared).eval()


def dialogue(turns: int, seed: int = 0) -> list[torch.Tensor]:
    gen = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (turns,), generator=gen).tolist()
    return [torch.cat([torch.randint(0, MEM, (n,), generator=gen), torch.tensor([MEM])]) for n in lengths]


def test_golden_is_reproduced_at_once_and_turn_by_turn(golden_dir: Path) -> None:
    compressor = ConvCompressor.from_pretrained(golden_dir / "compressor_small").eval()
    golden = load_file(golden_dir / "compressor_small" / "io.safetensors")
    ids, expected = golden["input_ids"], golden["output"][0]
    with torch.no_grad():
        torch.testing.assert_close(compressor(ids).memory, expected, atol=1e-5, rtol=0)
        ends = (ids[0] == compressor.memory_token_id).nonzero().flatten() + 1
        state, rows, start = compressor.initial_state(), [], 0
        for end in ends.tolist():
            turn = compressor(ids[:, start:end], state=state)
            state, start = turn.state, end
            rows.append(turn.memory)
    torch.testing.assert_close(torch.cat(rows), expected, atol=1e-5, rtol=0)


def test_hidden_states_equal_those_of_transformers_mamba() -> None:
    compressor = tiny()
    ids = torch.cat(dialogue(5))[None]
    reference = MambaModel(compressor.config).eval()
    reference.load_state_dict(compressor.mamba.state_dict())
    with torch.no_grad():
        hidden = reference(ids, use_cache=False).last_hidden_state[0]
        expected = compressor.memory_projection(hidden[ids[0] == MEM])
        torch.testing.assert_close(compressor(ids).memory, expected, atol=1e-4, rtol=1e-4)


@settings(max_examples=25)
@given(turns=st.integers(1, 12), seed=st.integers(0, 1000))
def test_folding_turn_by_turn_equals_reading_the_whole_session(turns: int, seed: int) -> None:
    compressor, session = tiny(), dialogue(turns, seed)
    with torch.no_grad():
        whole = compressor(torch.cat(session)[None])
        state, rows = None, []
        for turn in session:
            folded = compressor(turn[None], state=state)
            state = folded.state
            rows.append(folded.memory)
    torch.testing.assert_close(torch.cat(rows), whole.memory, atol=1e-4, rtol=1e-4)
    assert state is not None
    torch.testing.assert_close(state.ssm, whole.state.ssm, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state.conv, whole.state.conv, atol=1e-4, rtol=1e-4)


def test_padding_changes_neither_memory_nor_state() -> None:
    compressor = tiny()
    rows = [torch.cat(dialogue(2, 1)), torch.cat(dialogue(4, 2))]
    width = max(len(r) for r in rows) + 3
    ids = torch.stack([torch.nn.functional.pad(r, (0, width - len(r))) for r in rows])
    mask = torch.stack([(torch.arange(width) < len(r)).long() for r in rows])
    with torch.no_grad():
        batch = compressor(ids, attention_mask=mask)
        alone = [compressor(r[None]) for r in rows]
    torch.testing.assert_close(batch.memory, torch.cat([a.memory for a in alone]), atol=1e-5, rtol=1e-4)
    for i, one in enumerate(alone):
        torch.testing.assert_close(batch.state.ssm[:, i], one.state.ssm[:, 0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(batch.state.conv[:, i], one.state.conv[:, 0], atol=1e-5, rtol=1e-4)


def test_an_older_state_is_a_way_back(tmp_path: Path) -> None:
    """A corrected label: roll back to the state before the turn and fold the corrected turn instead."""
    compressor, session = tiny(), dialogue(3)
    corrected = session[1].clone()
    corrected[0] = (corrected[0] + 1) % MEM
    with torch.no_grad():
        first = compressor(session[0][None])
        first.state.save(tmp_path / "state.safetensors")
        wrong = compressor(session[1][None], state=first.state)
        mended = compressor(corrected[None], state=CompressorState.load(tmp_path / "state.safetensors"))
        whole = compressor(torch.cat([session[0], corrected])[None])
    torch.testing.assert_close(mended.memory[0], whole.memory[1], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(wrong.memory, mended.memory, atol=1e-4)


def test_shared_embeddings_keep_only_the_memory_token() -> None:
    compressor = tiny(shared=True)
    ids = torch.cat(dialogue(3))[None]
    embeddings = torch.randn(1, ids.shape[1], 12)
    with torch.no_grad():
        assert compressor(ids, token_embeddings=embeddings).memory.shape == (3, 12)
    assert compressor.mamba.embeddings.weight.shape[0] == 1
    with pytest.raises(ModelError, match="needs the language model's token embeddings"):
        compressor(ids)


def test_the_released_layout_comes_back_whole_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    compressor = tiny()
    compressor.save_pretrained(tmp_path)
    again = ConvCompressor.from_pretrained(tmp_path).eval()
    ids = torch.cat(dialogue(2))[None]
    with torch.no_grad():
        torch.testing.assert_close(again(ids).memory, compressor(ids).memory)
    (tmp_path / "memory_projection.pt").unlink()
    with pytest.raises(ModelError, match="memory_projection.pt"):
        ConvCompressor.from_pretrained(tmp_path)


def scan_inputs(length: int, device: str = "cpu") -> tuple[torch.Tensor, ...]:
    gen = torch.Generator().manual_seed(0)
    b, d, n = 2, 32, 8
    x, dt = torch.randn(b, length, d, generator=gen), torch.rand(b, length, d, generator=gen)
    dt[1, length // 2 :] = 0  # padding
    a = -torch.rand(d, n, generator=gen) - 0.1
    rest = [torch.randn(b, length, n, generator=gen), torch.randn(b, length, n, generator=gen)]
    return tuple(tensor.to(device) for tensor in (x, dt, a, *rest, torch.randn(b, d, n, generator=gen)))


def test_a_kernel_that_starts_from_zero_goes_on_from_any_state() -> None:
    """The loop itself, in the kernel's layout, stands for the kernel: layouts and the state's share are what is tested."""

    def kernel(u: Any, delta: Any, a: Any, b: Any, c: Any, return_last_state: bool) -> tuple[torch.Tensor, torch.Tensor]:
        y, last = selective_scan(u.mT, delta.mT, a, b.mT, c.mT, None)
        return y.mT, last

    *inputs, state = scan_inputs(12)
    for start in (None, state):
        expected, found = selective_scan(*inputs, start), scan_with(kernel, *inputs, start)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available() or scan_kernel() is None, reason="needs a GPU and mamba-ssm")
def test_mamba_ssms_kernel_computes_the_same_as_the_loop() -> None:
    *inputs, state = scan_inputs(300)
    on_gpu = [tensor.cuda() for tensor in inputs]
    for start in (None, state):
        expected = selective_scan(*inputs, start)
        found = selective_scan(*on_gpu, None if start is None else start.cuda())
        torch.testing.assert_close([t.cpu() for t in found], list(expected), atol=1e-3, rtol=1e-3)
