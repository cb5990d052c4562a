"""BGE-M3 in the hub's layout: three scores worked out by hand, files read strictly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import XLMRobertaConfig, XLMRobertaModel

from multimood_core.bge_m3 import BgeM3, BgeSimilarity, BgeStates, combined_score, dense_score, sparse_score
from multimood_core.errors import ModelError
from multimood_core.rewards import ReplySituation
from multimood_core.similarity import SimilarityReward, random_pair_mean
from multimood_core.text_encoder import late_interaction
from tests.multimood_core.bge_folder import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("bge-m3"))


@pytest.fixture(scope="module")
def similarity(folder: Path) -> BgeSimilarity:
    return BgeSimilarity(folder)


def test_the_three_scores_worked_out_by_hand() -> None:
    query = BgeStates(torch.tensor([1.0, 0.0]), {5: 0.5, 7: 0.2}, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    passage = BgeStates(torch.tensor([0.6, 0.8]), {5: 0.4, 9: 1.0}, torch.tensor([[0.6, 0.8], [-1.0, 0.0], [0.8, 0.6]]))
    assert dense_score(query, passage) == pytest.approx(0.6)
    assert sparse_score(query, passage) == pytest.approx(0.5 * 0.4)
    # best matches 0.8 and 0.8 of the query's two tokens; the other way 0.8, 0 and 0.8 of three
    assert late_interaction(query.colbert, passage.colbert) == pytest.approx(0.8)
    assert late_interaction(passage.colbert, query.colbert) == pytest.approx(1.6 / 3)
    assert combined_score(query, passage) == pytest.approx((0.6 + 0.3 * 0.2 + 0.8) / 2.3)
    assert late_interaction(query.colbert, query.colbert[:0]) == 0.0


def test_states_are_those_of_the_heads_on_xlm_r(folder: Path, similarity: BgeSimilarity) -> None:
    """Worked out anew from transformers' encoder and the heads' files."""
    config = XLMRobertaConfig.from_pretrained(folder)
    backbone = XLMRobertaModel(config).eval()
    backbone.load_state_dict(torch.load(folder / "pytorch_model.bin", weights_only=True), strict=False)
    ids = [0, 4, 5, 6, 6, 3, 2]  # <s> i cannot sleep sleep <unk> </s>
    with torch.no_grad():
        hidden = backbone(torch.tensor([ids])).last_hidden_state[0]
    sparse = torch.load(folder / "sparse_linear.pt", weights_only=True)
    colbert = torch.load(folder / "colbert_linear.pt", weights_only=True)
    weights = [max(0.0, float(sparse["weight"][0] @ state + sparse["bias"][0])) for state in hidden]
    vectors = [colbert["weight"] @ state + colbert["bias"] for state in hidden[1:]]

    # the shorter text's padding must not show
    found, _ = similarity.states(["i cannot sleep sleep dragon", "i cannot sleep since when my cat sings i cannot sleep"])
    torch.testing.assert_close(found.dense, hidden[0] / hidden[0].norm(), atol=1e-5, rtol=1e-5)
    expected = {4: weights[1], 5: weights[2], 6: max(weights[3], weights[4])}
    assert found.sparse == pytest.approx({token: weight for token, weight in expected.items() if weight > 0}, abs=1e-5)
    assert found.sparse, "a test without a weight says nothing"
    torch.testing.assert_close(found.colbert, torch.stack([v / v.norm() for v in vectors]), atol=1e-5, rtol=1e-5)


def test_texts_are_cut_at_128_tokens(similarity: BgeSimilarity) -> None:
    (states,) = similarity.states(["sleep " * 300])
    assert len(states.colbert) == 127  # 128 with CLS


def test_the_reference_itself_scores_one_and_the_unrelated_nothing(similarity: BgeSimilarity) -> None:
    texts = ["since when", "my cat sings", "i cannot sleep", "sings my cat when i sleep"]
    floor = random_pair_mean(similarity, texts)
    reward = SimilarityReward(similarity, floor)
    assert reward.name == "r_sim"
    situations = [ReplySituation("i cannot sleep", reference="since when"), ReplySituation("my cat sings")]
    same, missing = reward(situations, ["since when", "since when"])
    assert same == pytest.approx(1.0)
    assert missing is None


def edit(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("sparse_linear.pt", lambda s: s.pop("bias"), r"missing \['sparse_linear\.bias'\]"),
        ("colbert_linear.pt", lambda s: s.update(extra=torch.zeros(1)), r"unexpected \['colbert_linear\.extra'\]"),
        ("colbert_linear.pt", lambda s: s.update(weight=torch.zeros(4, 8)), r"other shapes \['colbert_linear\.weight'\]"),
        ("pytorch_model.bin", lambda s: s.pop("embeddings.word_embeddings.weight"), r"missing \['backbone\.embeddings\.word"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    tmp_path: Path, file: str, change: Callable[[dict[str, Tensor]], object], says: str
) -> None:
    folder = write_folder(tmp_path)
    edit(folder / file, change)
    with pytest.raises(ModelError, match=says):
        BgeM3.from_folder(folder)


def test_safetensors_are_taken_first_and_code_in_a_file_never_runs(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"broken")
    BgeM3.from_folder(folder)
    torch.save({"weight": _Runs()}, folder / "sparse_linear.pt")
    with pytest.raises(ModelError, match="cannot be read"):
        BgeM3.from_folder(folder)


class _Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1 / 0",)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        BgeM3.from_folder(tmp_path / "nowhere")
