"""Language models in a folder and behind an endpoint answer alike, together or alone, and fail without breaking a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from multimood_core.decoding import Sampling
from multimood_core.endpoint import Endpoint, EndpointSettings
from multimood_core.errors import ModelError
from multimood_core.evaluation import Conditions, evaluate_dialogues, score_tasks
from multimood_core.records import Context
from multimood_core.systems import ZeroShotSystem, calls_of
from multimood_core.text_models import EndpointTextModel, LocalTextModel, text_model_weights
from tests.multimood_core.stub_endpoint import Answer as StubAnswer
from tests.multimood_core.stub_endpoint import serve
from tests.multimood_core.test_evaluation import DIALOGUE
from tests.multimood_core.test_systems import FOUR_LINES, QUESTION
from tests.multimood_core.tiny import tokenizer_file

# -- a model in a folder ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer_file()), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=8192, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_model_of_random_weights_runs_and_cannot_be_read(folder: Path) -> None:
    system = ZeroShotSystem(LocalTextModel(folder))
    results = evaluate_dialogues(system, [DIALOGUE], Conditions("self-history"))
    scores = score_tasks(results)["client_emotion"]
    assert (scores["n"], scores["n_missing"]) == (3, 0)
    assert scores["n_unparsed"] == sum("client_emotion" not in r.predicted for r in results)
    assert all(r.text for r in results)
    assert [r.text for r in evaluate_dialogues(system, [DIALOGUE], Conditions("self-history"))] == [r.text for r in results]


def test_a_seed_gives_the_same_text_again(folder: Path) -> None:
    def say(seed: int) -> str:
        model = LocalTextModel(folder, Sampling(temperature=1.0, seed=seed))
        return ZeroShotSystem(model).answer(QUESTION).text

    assert say(1) == say(1) != say(2)


def test_prompts_asked_at_once_get_the_answers_that_they_get_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [replace(DIALOGUE, id=str(i), context=Context("work " * i, "")) for i in range(6)]
    alone = [r.text for r in evaluate_dialogues(ZeroShotSystem(LocalTextModel(folder, dtype=torch.float32)), many)]
    model = LocalTextModel(folder, dtype=torch.float32)
    together: list[int] = []
    write = model._write
    monkeypatch.setattr(model, "_write", lambda batch: (together.append(len(batch)), write(batch)))
    assert [r.text for r in evaluate_dialogues(ZeroShotSystem(model), many, workers=6)] == alone
    assert max(together) > 1
    assert sum(together) == len(alone)


def test_a_folder_without_a_model_and_a_prompt_that_is_too_long_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="causal language model"):
        LocalTextModel(tmp_path)
    with pytest.raises(ModelError, match="smollm2 for the embedded one"):
        text_model_weights(str(tmp_path / "none"))
    model = LocalTextModel(folder)
    model.model.config.max_position_embeddings = 100
    with pytest.raises(ModelError, match="--history-turns"):
        ZeroShotSystem(model).answer(QUESTION)


# -- an endpoint --------------------------------------------------------------------------------------------------------


def endpoint(url: str, cache: Path | None = None, **settings: Any) -> Endpoint:
    defaults: dict[str, Any] = {"timeout": 0.5, "retries": 2, "concurrency": 3, "price_in": 2.0, "price_out": 10.0}
    return Endpoint(EndpointSettings("stub", url, cache=cache, **(defaults | settings)))


def test_an_endpoint_is_asked_once_and_its_cost_is_shown(tmp_path: Path) -> None:
    many = [replace(DIALOGUE, id=str(i)) for i in range(2)]
    with serve(lambda n, request: StubAnswer(FOUR_LINES)) as stub:
        system = ZeroShotSystem(EndpointTextModel(endpoint(stub.url, tmp_path / "answers.db")))
        results = evaluate_dialogues(system, many, workers=3)
        asked = len(stub.requests)
        used = calls_of(system)
        again = ZeroShotSystem(EndpointTextModel(endpoint(stub.url, tmp_path / "answers.db")))
        repeated = evaluate_dialogues(again, many, workers=3)
        assert len(stub.requests) == asked  # everything was on the disk
    assert [message["role"] for message in stub.requests[0]["messages"]] == ["system", "user"]
    assert [r.text for r in repeated] == [r.text for r in results]
    assert used is not None
    assert (used["calls"], used["tokens_in"], used["cost"]) == (asked, 100 * asked, pytest.approx(asked * 300 / 1e6))
    assert (calls_of(again) or {})["cached"] == 6


def test_an_endpoint_that_misbehaves_costs_accuracy_and_no_run() -> None:
    """It is busy, breaks, is late, is cut off and talks nonsense; answers that can be read are right."""

    def respond(number: int, request: dict[str, Any]) -> StubAnswer:
        words = request["messages"][1]["content"]
        if "Client: I can't sleep." in words:  # twice busy or broken, then right
            return [StubAnswer(status=429), StubAnswer(status=500), StubAnswer(FOUR_LINES)][min(number, 2)]
        if "Client: For weeks." in words:
            return StubAnswer(FOUR_LINES, seconds=1.5)  # later than anybody waits
        return StubAnswer("Client's emotion: neutral\nTherapist's emot")

    with serve(respond) as stub:
        system = ZeroShotSystem(EndpointTextModel(endpoint(stub.url)))
        results = evaluate_dialogues(system, [DIALOGUE])
    assert [r.missing for r in results] == [False, True, False]
    assert set(results[2].predicted) == {"client_emotion"}
    tasks = score_tasks(results)
    assert tasks["client_emotion"]["accuracy"] == pytest.approx(2 / 3)
    assert [(tasks[t]["n_missing"], tasks[t]["n_unparsed"]) for t in tasks] == [(1, 0), (1, 1), (1, 1)]
    assert (calls_of(system) or {})["failed"] == 1


def test_an_endpoint_that_refuses_ends_the_run() -> None:
    with serve(lambda n, request: StubAnswer(status=401)) as stub, pytest.raises(ModelError, match="refused 'stub'"):
        evaluate_dialogues(ZeroShotSystem(EndpointTextModel(endpoint(stub.url))), [DIALOGUE], workers=2)
