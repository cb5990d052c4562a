"""Language models get the same prompt as text, are read leniently, and fail without breaking a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from multimood_core.decoding import Sampling
from multimood_core.endpoint import Endpoint, EndpointSettings
from multimood_core.engine import Engine
from multimood_core.errors import ModelError
from multimood_core.evaluation import Conditions, Question, evaluate_dialogues, score_tasks
from multimood_core.prompts import Piece
from multimood_core.records import CheckpointId, Context, HistoryTurn
from multimood_core.registry import Checkpoint
from multimood_core.systems import (
    CheckpointSystem,
    EndpointTextModel,
    Expressions,
    LocalTextModel,
    Perception,
    SmesParts,
    SmesSystem,
    Template,
    ZeroShotSystem,
    calls_of,
    described,
    label_in,
    text_model_weights,
)
from tests import synthetic
from tests.multimood_core.stub_endpoint import Answer as StubAnswer
from tests.multimood_core.stub_endpoint import serve
from tests.multimood_core.test_evaluation import DIALOGUE
from tests.multimood_core.tiny import tiny_model, tokenizer_file

FOUR_LINES = (
    "**Client's emotion:** [Fear]\nTherapist's emotion: neutral, I think\nTherapist's strategy: Open Questions\n"
    "Therapist's response: What keeps you awake?"
)
QUESTION = Question(
    "4/1", "4", "I can't sleep.", (HistoryTurn("therapist", "Welcome.", "joy"),), Context("insomnia", "nights"), "She frowns."
)


class Scripted:
    """A text model that says what it is told to, and keeps the prompts."""

    name = "scripted"

    def __init__(self, answers: Sequence[str | None]) -> None:
        self.answers, self.prompts = list(answers), list[str]()

    def complete(self, prompt: Callable[[Template], list[Piece]], max_tokens: int) -> str | None:
        pieces = prompt(lambda messages: "\n".join(m["content"] for m in messages))
        self.prompts.append("".join(piece.text for piece in pieces))
        return self.answers.pop(0)


def test_the_prompt_has_every_slot_in_words() -> None:
    model = Scripted([FOUR_LINES])
    answer = ZeroShotSystem(model).answer(QUESTION)
    prompt = model.prompts[0]
    for part in ("Problem: insomnia", "Video: not given", "Audio: not given", "Description: She frowns.", "I can't sleep."):
        assert part in prompt
    assert "Chat history: \ntherapist [joy]: Welcome." in prompt
    assert not any(token in prompt for token in ("<video>", "<audio>", "<history>"))
    assert {task: p.label for task, p in answer.labels.items()} == {
        "client_emotion": "fear", "therapist_emotion": "neutral", "strategy": "open question",
    }  # fmt: skip
    assert answer.response == "What keeps you awake?"
    assert answer.text == FOUR_LINES


def test_a_placeholder_that_a_client_typed_stays_as_it_is() -> None:
    model = Scripted([FOUR_LINES])
    ZeroShotSystem(model).answer(replace(QUESTION, client="is <video> on?"))
    assert "Client: is <video> on?" in model.prompts[0]


def test_smes_goes_step_by_step_on_what_it_found() -> None:
    model = Scripted(["Emotion: sad.", "I would choose restatement", "neutral", '"You lie awake."'])
    shown = {"face": {"joy": 0.2, "fear": 0.7}, "voice": {"anger": 0.9, "joy": 0.1}}
    answer = SmesSystem(model, lambda question: shown).answer(QUESTION)
    assert {task: p.label for task, p in answer.labels.items()} == {
        "client_emotion": "sadness", "strategy": "restatement", "therapist_emotion": "neutral",
    }  # fmt: skip
    assert answer.response == "You lie awake."
    emotion, strategy, system_emotion, reply = model.prompts
    assert "Description: She frowns. The face shows fear (70%) or joy (20%). The voice shows anger (90%)" in emotion
    assert "[FOUND SO FAR]\nnothing" in emotion
    assert "Client's emotion: sadness\n" in strategy
    assert "Therapist's strategy: restatement\n" in system_emotion
    assert "Therapist's emotion: neutral\n" in reply
    assert "[OUTPUT FORMAT]" not in reply


def test_an_ablation_of_smes_leaves_out_cues_and_steps() -> None:
    model = Scripted(["sad", "restatement", "neutral", "Yes."])
    shown = {"face": {"fear": 1.0}, "voice": {"anger": 1.0}}
    parts = SmesParts(visual=False, steps=("client_emotion", "therapist_emotion", "response"))
    answer = SmesSystem(model, lambda question: shown, parts).answer(QUESTION)
    assert answer.labels["strategy"].label == "restatement"  # asked for its own score
    assert not any("restatement\n" in prompt for prompt in model.prompts)  # and shown to no later step
    assert not any("frowns" in prompt or "face" in prompt for prompt in model.prompts)
    assert "The voice shows anger" in model.prompts[0]


def test_a_failed_step_of_smes_is_a_missing_answer() -> None:
    answer = SmesSystem(Scripted(["sad", None])).answer(QUESTION)
    assert answer.missing
    assert (set(answer.labels), answer.response) == ({"client_emotion"}, None)


@pytest.mark.parametrize(
    ("text", "task", "label"),
    [
        ("Client's emotion: Joy!", "client_emotion", "joy"),
        ("\n\nThe client is angry, or in fear", "client_emotion", "anger"),
        ("Open question", "strategy", "open question"),
        ("no idea", "strategy", None),
        ("", "client_emotion", None),
    ],
)
def test_labels_of_single_answers(text: str, task: str, label: str | None) -> None:
    assert label_in(text, task) == label


def test_without_cues_nothing_is_described() -> None:
    assert described(replace(QUESTION, description=""), {}) == ""


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
    assert calls_of(ZeroShotSystem(Scripted([]))) is None


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


# -- clips ---------------------------------------------------------------------------------------------------------------


def test_a_clip_reaches_the_towers_unless_an_ablation_takes_it(tmp_path: Path) -> None:
    synthetic.write_clip(tmp_path / "a.wav", sound=synthetic.spoken(0.8), rate=16_000, audio="pcm_s16le")
    model, processor = tiny_model(seed=3)
    engine = Engine(Checkpoint(CheckpointId("tiny", "0" * 64), Path(), model, processor))
    question = replace(QUESTION, media="a.wav")
    heard, deaf = Perception(engine, tmp_path), Perception(engine, tmp_path, audio=False)
    assert heard(question).audio_mode == "used"
    assert deaf(question).audio_mode == "missing"
    assert heard(QUESTION).audio_mode == "missing"  # no clip
    assert set(Expressions(heard)(question)) == {"voice"}
    first = CheckpointSystem(engine, perceive=heard).answer(question).labels["client_emotion"].probabilities
    second = CheckpointSystem(engine, perceive=deaf).answer(question).labels["client_emotion"].probabilities
    assert first != second
