"""Keys of the hub and of PEFT become names of the model, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimood_core.checkpoint import KEY_MAP, hub_key, our_name

WORDS = st.text("abcdefgh_0123456789", min_size=1, max_size=6)


@given(prefix=st.sampled_from([p for p, _ in KEY_MAP]), rest=st.lists(WORDS, min_size=1, max_size=4).map(".".join))
def test_names_keep_what_follows_the_prefix(prefix, rest):
    name = our_name(prefix + rest)
    assert name is not None
    assert name.endswith(f".{rest}")
    assert our_name(hub_key(f"base_model.model.{prefix}{rest}")) == name
    assert hub_key(prefix + rest) == prefix + rest


@pytest.mark.parametrize("key", ["model.mm_projector_b.weight", "mm_projector.s1.weight", "lm_head_extra.weight", ""])
def test_other_keys_have_no_name(key):
    assert our_name(key) is None


def test_no_two_prefixes_meet():
    for column in zip(*KEY_MAP, strict=True):
        assert not [(p, q) for p in column for q in column if p != q and q.startswith(p)]


@pytest.mark.parametrize(
    ("key", "bare"),
    [
        ("base_model.model.lm_head.weight", "lm_head.weight"),
        ("model.model.mm_projector.s1.weight", "model.mm_projector.s1.weight"),
        ("base_model.model.model.layers.0.mlp.up_proj.base_layer.weight", "model.layers.0.mlp.up_proj.weight"),
        ("base_model.model.lm_head.modules_to_save.default.weight", "lm_head.weight"),
    ],
)
def test_what_peft_wraps_around_a_key_is_cut_off(key, bare):
    assert hub_key(key) == bare
