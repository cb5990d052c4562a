"""What the policy writes under a dialogue item's prompt, and how likely it finds each token of it (stages GRPO and PPO).

A group is one prompt with several completions. What they share is done once: towers' features are read from the cache,
projectors and compressor run once, the prompt is read once into a cache that every completion starts from, and where
gradients flow the prompt stands once before all completions of its group (``Branches``), not once before each.

The completion is the reply under the labels that the policy itself chooses, the way the decoder answers: labels by
likelihood, then the reply (``completion: reply``). The paper's completion is all four lines, written freely
(``completion: answer``): a label is then drawn by chance, and its gradient carries the reward of a reply.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from multimood_core.decoding import LABELS, AnswerDecoder, PromptStart
from multimood_core.errors import DataError
from multimood_core.model import MultiMoodForConditionalGeneration
from multimood_core.processor import MultiMoodProcessor
from multimood_core.prompts import CLIENT_LINE, RESPONSE_LINE, Piece, parse_output
from multimood_core.registry import Calibration
from multimood_core.reward_scores import situation_of
from multimood_core.rewards import ReplySituation
from train.mixture import SftTask

COMPLETIONS: Final = ("reply", "answer")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A dialogue item as the policy meets it: ids (L,) up to where the answer begins, placeholders expanded, and media."""

    id: str
    situation: ReplySituation
    ids: list[int]
    media: dict[str, Tensor]


class Situations:
    """The items of a split as prompts, with history and acted media drawn as supervised fine-tuning draws them.

    Args:
        task: the mixture of supervised fine-tuning over the items.

    Raises:
        DataError: an item is of the test split, which nothing may learn from.
    """

    def __init__(self, task: SftTask) -> None:
        tests = [item.id for item in task.items if item.dialogue.split == "test"]
        if tests:
            raise DataError(
                f"Expected items of the train or val split, but {len(tests)} are of the test split ({', '.join(tests[:3])}). "
                "Nothing learns from the test split; it is for the one final measurement."
            )
        self.task = task
        self._opening = len(task.processor.encode_pieces([Piece(CLIENT_LINE)]))

    def __len__(self) -> int:
        return len(self.task.items)

    def lengths(self, index: int, completion: str, rng: random.Random) -> tuple[int, int]:
        """Tokens that stand before an item's completion, and of the real one, without media; for plans."""
        sample = self.task.encode(index, rng, read=False)
        begin = sample.lines.index(3 if completion == "reply" else 0)  # line 3 is the reply
        return begin, len(sample.ids) - begin

    def draw(self, index: int, rng: random.Random) -> Prompt:
        """The prompt of one item; ``rng`` decides on the history's labels and on voice and face."""
        item, sample = self.task.items[index], self.task.encode(index, rng)
        begin = sample.lines.index(0) - self._opening  # line 0 is the client's emotion
        return Prompt(item.id, situation_of(item), sample.ids[:begin], self.task.media([sample]))


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt and what the policy wrote under it.

    Attributes:
        prefix: (P, D_llm) embeddings of all that stands before a completion: prompt with media in their places, and the
            lines of the labels where they are no part of the completion.
        completions: token ids of each, its end included.
        replies: the reply's text in each; empty where there is none.
        labels: the labels that the replies were written under; none where they are part of the completion.
        lead: tokens at the prefix's end that are the lines of the labels.
    """

    prompt: Prompt
    prefix: Tensor
    completions: tuple[tuple[int, ...], ...]
    replies: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    lead: int = 0


@dataclass(frozen=True, slots=True)
class _Opened:
    """A prompt that was read: its prefix, the cache of all but the prefix's last token, that token, labels and lead."""

    prompt: Prompt
    prefix: Tensor
    cache: DynamicCache
    last: int
    labels: dict[str, str]
    lead: int


class Writer:
    """Draws completions from the policy as it is; nothing but its own distribution, so that they are on-policy.

    Args:
        model: the policy, not wrapped.
        processor: its processor; media placeholders are never drawn.
        calibration: decides with the policy on the labels, as in the app.
        completion: ``reply`` or ``answer``.
        max_tokens: the longest completion.
        temperature: divides the logits; above 0.

    Raises:
        DataError: no such kind of completion, or a temperature of 0.
    """

    def __init__(
        self,
        model: MultiMoodForConditionalGeneration,
        processor: MultiMoodProcessor,
        calibration: Calibration,
        completion: str = "reply",
        max_tokens: int = 48,
        temperature: float = 1.0,
    ) -> None:
        if completion not in COMPLETIONS or temperature <= 0:
            raise DataError(
                f"Expected completion to be one of {', '.join(COMPLETIONS)} and temperature above 0, "
                f"got {completion!r} and {temperature}."
            )
        self.model, self.processor, self.calibration = model, processor, calibration
        self.completion, self.max_tokens, self.temperature = completion, max_tokens, temperature
        self.barred: Final = processor.media_token_ids
        ends = [processor.tokenizer.eos_token_id]
        line_end = processor.tokenizer("\n", add_special_tokens=False).input_ids
        if completion == "reply" and len(line_end) == 1:  # a reply is one line
            ends += line_end
        self.ends: Final = frozenset(ends)

    @torch.no_grad()
    def write(self, prompts: Sequence[Prompt], count: int, seeds: Sequence[str]) -> list[Group]:
        """``count`` completions of each prompt; a prompt's draws follow from its own seed alone, whoever stands beside it."""
        training = self.model.training
        self.model.eval()  # checkpointed layers keep no cache while training
        try:
            opened = [self._open(prompt) for prompt in prompts]
            drawn = self._draw(opened, count, [torch.Generator().manual_seed(_number(seed)) for seed in seeds])
        finally:
            self.model.train(training)
        return [
            Group(one.prompt, one.prefix, tuple(rows), tuple(map(self.reply_of, rows)), one.labels, one.lead)
            for one, rows in zip(opened, drawn, strict=True)
        ]

    def reply_of(self, completion: Sequence[int]) -> str:
        """The reply's text in a completion."""
        text = self.processor.tokenizer.decode([t for t in completion if t not in self.ends], skip_special_tokens=True)
        return text.strip() if self.completion == "reply" else parse_output(f"{CLIENT_LINE}{text}").response or ""

    def _open(self, prompt: Prompt) -> _Opened:
        base, processor = self.model.model, self.processor
        device = self.model.get_input_embeddings().weight.device
        ids = torch.tensor([prompt.ids], device=device)
        embeds = base.embed(ids, **{name: value.to(device) for name, value in prompt.media.items()})
        cache, labels = DynamicCache(config=self.model.config.text_config), {}
        base(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
        lines = processor.encode_pieces([Piece(CLIENT_LINE)])
        if self.completion == "reply":
            start = PromptStart(prompt.ids, cache, frozenset())
            decoder = AnswerDecoder(self.model, processor, self.calibration, ids, {}, start)
            labels = {task: decoder.label(task).label for task in LABELS}
            lines = label_lines(processor, labels)
        unread = [*prompt.ids, *lines][cache.get_seq_length() : -1]
        if unread:
            base(input_ids=torch.tensor([unread], device=device), past_key_values=cache, use_cache=True)
        words = self.model.get_input_embeddings()(torch.tensor(lines, device=device))
        return _Opened(prompt, torch.cat([embeds[0], words]), cache, lines[-1], labels, len(lines) if labels else 0)

    def _draw(self, opened: Sequence[_Opened], count: int, generators: Sequence[torch.Generator]) -> list[list[tuple[int, ...]]]:
        device = self.model.get_input_embeddings().weight.device
        cache, mask = _stacked([one.cache for one in opened], count)
        positions = mask.sum(1)
        tokens = torch.tensor([one.last for one in opened], device=device).repeat_interleave(count)
        written: list[list[int]] = [[] for _ in tokens]
        rows = list(range(len(tokens)))  # those that have not ended; the others leave the batch
        for step in range(self.max_tokens):
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
            logits = self.model(
                input_ids=tokens[:, None],
                attention_mask=mask,
                position_ids=(positions + step)[:, None],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1].float()
            logits[:, self.barred] = -torch.inf
            heights = (logits / self.temperature).softmax(-1).cumsum(-1)
            # Every row gets its number at every step, needed or not: no row's draws hang on when another one ended.
            chances = torch.cat([torch.rand(count, generator=generator) for generator in generators]).to(device)[rows, None]
            tokens = torch.searchsorted(heights, chances * heights[:, -1:], right=True)[:, 0]
            for row, token in zip(rows, tokens.tolist(), strict=True):
                written[row].append(token)
            kept = [i for i, token in enumerate(tokens.tolist()) if token not in self.ends]
            if not kept:
                break
            if len(kept) < len(rows):
                cache.batch_select_indices(torch.tensor(kept, device=device))
                mask, positions, tokens, rows = mask[kept], positions[kept], tokens[kept], [rows[i] for i in kept]
        return [[tuple(row) for row in written[i : i + count]] for i in range(0, len(written), count)]


def label_lines(processor: MultiMoodProcessor, labels: Mapping[str, str]) -> list[int]:
    """The answer's ids from its first line to where the reply begins."""
    ids: list[int] = []
    for task, (line, _) in LABELS.items():
        ids += processor.encode_pieces([Piece(f"\n{line}" if ids else line)]) + processor.encode_value(labels[task])
    return ids + processor.encode_pieces([Piece(f"\n{RESPONSE_LINE}")])


def _number(seed: str) -> int:
    return random.Random(seed).getrandbits(63)


def _stacked(caches: Sequence[DynamicCache], repeats: int) -> tuple[DynamicCache, Tensor]:
    """One cache with ``repeats`` rows for each of ``caches`` (1 row each), padded on the left, and its mask (B, L)."""
    lengths = [cache.get_seq_length() for cache in caches]
    width = max(lengths)

    def rows(states: Sequence[Tensor]) -> Tensor:
        padded = [nn.functional.pad(s, (0, 0, width - s.shape[-2], 0)) for s in states]
        return torch.cat(padded).repeat_interleave(repeats, 0)

    layers = [
        (rows([one.keys for one in layer]), rows([one.values for one in layer]))
        for layer in zip(*(cache.layers for cache in caches), strict=True)
    ]
    present = torch.arange(width) >= width - torch.tensor(lengths)[:, None]
    return DynamicCache(layers), present.long().repeat_interleave(repeats, 0).to(layers[0][0].device)


@dataclass(frozen=True, slots=True)
class Branches:
    """Completions side by side behind one prefix: each token sees the prefix and its own completion's tokens.

    The prefix's last token stands at the head of each branch, so that state i of a branch predicts its token i.

    Attributes:
        inputs_embeds: (1, P - 1 + n, D_llm), n the number of all completion tokens.
        attention_mask: (1, 1, P - 1 + n, P - 1 + n), to be added.
        position_ids: (1, P - 1 + n), as if each completion stood alone behind the prefix.
        targets: (n,) completion tokens.
        lengths: of the completions.
        lead: tokens at the prefix's end whose states are wanted too.
    """

    inputs_embeds: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    targets: Tensor
    lengths: tuple[int, ...]
    lead: int = 0

    @classmethod
    def of(cls, prefix: Tensor, completions: Sequence[Sequence[int]], embedding: nn.Module, lead: int = 0) -> Branches:
        """Lay out ``completions`` behind ``prefix`` (P, D_llm); ``embedding`` is the model's word embedding."""
        device, trunk = prefix.device, len(prefix) - 1
        targets = torch.tensor([token for completion in completions for token in completion], device=device)
        lengths = tuple(map(len, completions))
        pieces, begin = [prefix[:-1]], 0
        for length in lengths:
            pieces += [prefix[-1:], embedding(targets[begin : begin + length - 1]).to(prefix.dtype)]
            begin += length
        owner = torch.tensor([-1] * trunk + [i for i, n in enumerate(lengths) for _ in range(n)], device=device)
        steps = [torch.arange(trunk, device=device), *(trunk + torch.arange(n, device=device) for n in lengths)]
        position = torch.cat(steps)
        seen = ((owner == -1) | (owner[:, None] == owner)) & (position <= position[:, None])
        mask = torch.zeros(seen.shape, dtype=prefix.dtype, device=device)
        mask = mask.masked_fill(~seen, torch.finfo(prefix.dtype).min)
        return cls(torch.cat(pieces)[None], mask[None, None], position[None], targets, lengths, lead)

    def states(self, model: nn.Module) -> Tensor:
        """The states (n, D_llm) that predict the completions' tokens; ``model`` may be wrapped for several processes."""
        return self.read(model)[1]

    def read(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """The states (lead, D_llm) that predict the prefix's last tokens, and those of ``states``."""
        outputs: Any = model(
            inputs_embeds=self.inputs_embeds,
            attention_mask=self.attention_mask,
            position_ids=self.position_ids,
            use_cache=False,
            output_hidden_states=True,
            logits_to_keep=1,
        )
        states, trunk = outputs.hidden_states[-1][0], self.inputs_embeds.shape[1] - len(self.targets)
        return states[trunk - self.lead : trunk], states[trunk:]

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """One value a token (n, ...) -> one tensor a completion."""
        return values.split(list(self.lengths))


def log_probabilities(
    head: nn.Linear, states: Tensor, targets: Tensor, barred: Sequence[int], temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probability (n,) of each target and entropy (n,) of what it was drawn from, in float32.

    Args:
        head: the vocabulary head.
        states: (n, D_llm).
        targets: (n,) token ids.
        barred: ids that are never drawn.
        temperature: that the tokens were drawn with.
    """
    with torch.autocast(states.device.type, enabled=False):  # bfloat16 would round a logit of 20 to eighths
        logits = head(states.to(head.weight.dtype)).float() / temperature
    return token_scores(logits, targets, barred)


def token_scores(logits: Tensor, targets: Tensor, barred: Sequence[int]) -> tuple[Tensor, Tensor]:
    """``log_probabilities`` from logits (n, vocabulary) in float32."""
    bar = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    bar[list(barred)] = True
    every = logits.masked_fill(bar, torch.finfo(logits.dtype).min).log_softmax(-1)
    with torch.no_grad():
        entropy = -(every.exp() * every.masked_fill(bar, 0)).sum(-1)
    return every.gather(-1, targets[:, None])[:, 0], entropy


def line_divergence(head: nn.Linear, reference: Tensor, states: Tensor) -> Tensor:
    """Divergence of the policy from the reference over the labels' lines, KL(reference || policy), in nats for all of them.

    Where the completion is the reply, the lines of the labels stand before it and the divergence of the completion does not
    hold them; the labels would drift with what the reply is rewarded for.

    Args:
        head: the vocabulary head, the same for both.
        reference: (lead, D_llm) states of the reference (``Branches.read``).
        states: (lead, D_llm) states of the policy.
    """
    with torch.autocast(states.device.type, enabled=False):
        wanted, now = (head(one.to(head.weight.dtype)).float().log_softmax(-1) for one in (reference, states))
    return (wanted.exp() * (wanted - now)).sum()
