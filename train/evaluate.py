"""Score a system on dialogues or clips, by a named protocol, with trivial baselines beside it.

    python -m train.evaluate --data mesc --split test --protocol gold-history --checkpoint mini-sft --out R.json
    python -m train.evaluate --data mesc --split test --responses --checkpoint mini-sft --out R.json
    python -m train.evaluate --data DIR --checkpoint mini-sft --out R.json
    python -m train.evaluate --data mesc --llm FOLDER --responses --smes --out R.json
    python -m train.evaluate --data mesc --endpoint MODEL --url URL --responses --out R.json
    python -m train.evaluate --data mesc --ablations table7 --responses --checkpoint mini-sft --out R.json
    python -m train.evaluate --compare A.json B.json

DIR holds ``labels.csv`` (file, emotion[, speaker]), where files may be sounds, pictures or clips, or is DFEW's folder;
labels outside the seven emotions are left out and counted. ``--data`` also takes dialogues that ``train.data`` wrote
(FILE.jsonl; clips of turns below the data root). With ``--out`` a run can be stopped and goes on where it was, and a
Markdown and an HTML report stand beside the JSON.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from tqdm import tqdm

from multimood_core.baselines import label_baselines, reply_baselines
from multimood_core.comparison import compare_reports, label_differences, reply_differences
from multimood_core.decoding import Sampling
from multimood_core.dialogues import Dialogue, items_of, read_dialogues
from multimood_core.engine import Engine
from multimood_core.errors import DataError
from multimood_core.evaluation import (
    PROTOCOLS,
    Conditions,
    ItemResult,
    System,
    evaluate_dialogues,
    score_replies,
    score_tasks,
    token_reduction,
)
from multimood_core.journal import Journal
from multimood_core.registry import DEFAULT
from multimood_core.reward_scores import score_rewards
from multimood_core.rewards import embedded_rewards
from multimood_core.systems import (
    LINE_TOKENS,
    CheckpointSystem,
    Expressions,
    Perception,
    SmesSystem,
    ZeroShotSystem,
    calls_of,
)
from multimood_core.text_metrics import TokenMatcher, token_matchers
from train.ablations import ABLATIONS, Variant, reason_not_to_run
from train.config import run_command
from train.data import read_mesc
from train.evaluate_clips import evaluate_dfew, evaluate_folder, is_dfew, row_of
from train.report import load_report, print_comparison, print_table, write_reports
from train.systems import text_model
from train.turns import data_root, named_data_root


def _dialogues(args: argparse.Namespace) -> tuple[str, list[Dialogue], list[Dialogue]]:
    """The data's name, the dialogues to learn baselines from, and those to ask about."""
    if args.data == "mesc":
        splits = read_mesc()
        name, train, asked = "mesc", splits["train"], splits[args.split]
    else:
        path = Path(args.data)
        learnt = path.with_name("train.jsonl")
        if path == learnt or not learnt.is_file():
            raise DataError(
                f"Expected a train.jsonl beside {path} for the baselines to learn from. Run python -m train.data."
            )
        name, train, asked = path.parent.name, read_dialogues(learnt), read_dialogues(path)
    return name, train, asked[: args.limit] if args.limit else asked


def _system(args: argparse.Namespace, engine: Engine | None, variant: Variant, media: bool) -> System:
    """Who is asked; ``media``: some turn has a clip."""
    sampling = Sampling(args.temperature, seed=args.seed, max_tokens=args.max_tokens)
    perceive = None
    if engine and media:
        perceive = Perception(engine, data_root(), args.video and variant.video, args.audio and variant.audio)
    if not (args.llm or args.endpoint):
        assert engine is not None
        return CheckpointSystem(engine, args.recent_turns, perceive, sampling if args.responses else None)
    model, cues = text_model(args, sampling), Expressions(perceive) if perceive else None
    if args.smes:
        return SmesSystem(model, cues, variant.smes, args.max_tokens)
    return ZeroShotSystem(model, cues, args.max_tokens)


def evaluate_system(
    args: argparse.Namespace,
    system: System,
    dialogues: Sequence[Dialogue],
    conditions: Conditions,
    label: str = "",
) -> list[ItemResult]:
    """Ask about every item; with ``--out`` each result is kept at once, and those kept before are not asked again."""
    total = sum(1 for dialogue in dialogues for _ in items_of([dialogue]))
    journal = None
    if args.out:
        ending = f".{label.replace(' ', '-')}.partial.jsonl" if label else ".partial.jsonl"
        journal = Journal(args.out.with_name(args.out.name + ending), _settings(args, system, conditions, label))
    known = journal.known if journal else {}
    title = ", ".join(filter(None, (system.name, label, conditions.protocol)))
    with tqdm(total=total, initial=len(known), desc=title) as bar:

        def done(result: ItemResult) -> None:
            if journal:
                journal.add(result)
            calls = calls_of(system)
            if calls and calls["cost"] is not None:
                bar.set_postfix_str(f"{calls['calls']} calls, cost {calls['cost']:.2f}")
            bar.update()

        workers = args.concurrency if args.endpoint or args.llm else 1
        return evaluate_dialogues(system, dialogues, conditions, known, workers, done)


def _settings(args: argparse.Namespace, system: System, conditions: Conditions, label: str) -> dict[str, Any]:
    """What decides the results, to tell whether a stopped run can be gone on with. A limit decides none."""
    kept = ("data", "split", "responses", "smes", "recent_turns", "video", "audio", "temperature", "max_tokens", "seed")
    weights = getattr(getattr(getattr(system, "engine", None), "checkpoint", None), "id", None)
    return {key: getattr(args, key) for key in kept} | {
        "system": system.name,
        "checkpoint": asdict(weights) if weights else None,
        "conditions": asdict(conditions),
        "variant": label,
    }


def _discard_journals(out: Path) -> None:
    """The results stand in the report now."""
    for path in out.parent.glob(f"{out.name}*.partial.jsonl"):
        path.unlink()


def score_run(
    results: Sequence[ItemResult],
    labels: Mapping[str, Mapping[str, Sequence[str]]],
    replies: Mapping[str, Sequence[str]],
    matchers: Sequence[TokenMatcher] = (),
) -> dict[str, Any]:
    """Scores, baselines and differences to them.

    Args:
        results: of one system.
        labels: baseline -> task -> a label for each result.
        replies: baseline -> a reply for each result; empty where no replies were asked for.
        matchers: for the replies.
    """
    groups = [r.dialogue for r in results]
    truth = {task: [r.truth[task] for r in results] for task in results[0].truth}
    said = {task: [r.label(task) for r in results] for task in truth}
    seconds = [r.seconds for r in results]
    report: dict[str, Any] = {
        "n": len(results),
        "tasks": score_tasks(results),
        "baselines": {
            name: {task: row_of(truth[task], rows) for task, rows in tasks.items()} for name, tasks in labels.items()
        },
        "differences": {
            task: {
                name: {
                    key: asdict(d) for key, d in label_differences(truth[task], said[task], rows[task], groups).items()
                }
                for name, rows in labels.items()
                if task in rows
            }
            for task in truth
        },
        "seconds_per_item": float(np.mean(seconds)),
        "seconds": {"median": float(np.median(seconds)), "p95": float(np.quantile(seconds, 0.95))},
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "token_reduction": token_reduction(results),
        "items": [r.plain() for r in results],
    }
    if replies:
        references, missing = [r.reference for r in results], sum(r.missing for r in results)
        own = score_replies(references, [r.response for r in results], groups, matchers, missing)
        others = {name: score_replies(references, rows, groups, matchers) for name, rows in replies.items()}
        report["responses"] = own | {"baselines": {name: _summary(scores) for name, scores in others.items()}}
        report["differences"]["response"] = {
            name: {key: asdict(d) for key, d in reply_differences(own["items"], scores["items"], groups).items()}
            for name, scores in others.items()
        }
    return report


def _summary(scores: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in scores.items() if key != "items"}


def evaluate_mesc(args: argparse.Namespace, engine: Engine | None) -> dict[str, Any]:
    """MESC, or dialogues in its form: one system, or every variant of an ablation."""
    name, learnt, dialogues = _dialogues(args)
    train, test = list(items_of(learnt)), list(items_of(dialogues))
    if not test:
        raise DataError(f"Expected client turns that a therapist turn follows in {args.data}, got none.")
    conditions = Conditions(
        args.protocol, args.rate, not args.no_context, args.descriptions, args.history_turns, args.seed
    )
    labels = label_baselines(train, test, args.protocol == "gold-history")
    replies = reply_baselines(train, test) if args.responses else {}
    matchers = token_matchers() if args.responses else []
    rewards = embedded_rewards() if args.rewards else None
    media = any(item.client.media for item in test)
    calls: dict[str, Any] = {}

    def run(variant: Variant, given: Conditions) -> dict[str, Any]:
        system = _system(args, engine, variant, media)
        results = evaluate_system(args, system, dialogues, given, variant.name)
        if (used := calls_of(system)) is not None:
            calls[variant.name or "all"] = used
        scored = {"system": system.name} | score_run(results, labels, replies, matchers)
        if rewards:
            scored["rewards"] = score_rewards(rewards, test, [r.response for r in results])
            others = {baseline: score_rewards(rewards, test, rows)["parts"] for baseline, rows in replies.items()}
            scored["rewards"]["baselines"] = others
        return scored

    head = {
        "data": name,
        "split": args.split if args.data == "mesc" else Path(args.data).stem,
        "protocol": args.protocol,
        "rate": args.rate if args.protocol == "corrected-history" else None,
        "recent_turns": engine.processor.recent_turns if engine and args.recent_turns is None else args.recent_turns,
        "context": not args.no_context,
        "conditions": asdict(conditions),
    }
    if not args.ablations:
        return head | run(Variant(), conditions) | ({"calls": calls} if calls else {})
    described = any(item.client.description for item in test)
    full = replace(conditions, descriptions=described and not args.no_descriptions)
    report = head | {"conditions": asdict(full)} | run(Variant(), full)
    variants, not_run = {}, {}
    for variant in ABLATIONS[args.ablations]:
        if reason := reason_not_to_run(variant, args, media, described):
            not_run[variant.name] = reason
            continue
        found = run(variant, variant.conditions(full))
        found["differences"] = compare_reports(report, head | found)["differences"]
        variants[variant.name] = found
    return (
        report
        | {"ablations": args.ablations, "variants": variants, "not_run": not_run}
        | ({"calls": calls} if calls else {})
    )


def _place(given: str) -> str:
    """A file or folder as the command names it again: below the data root, below this folder, else as it was given."""
    path, root = Path(given).resolve(), named_data_root().resolve()
    if not path.exists():
        return shlex.quote(given)  # the name of a checkpoint or model
    if path.is_relative_to(root):
        place = f"$MULTIMOOD_DATA/{path.relative_to(root)}"
        return f'"{place}"' if " " in place else place
    return shlex.quote(str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else given)


def _command(args: argparse.Namespace) -> str:
    """What reproduces the report."""
    mesc = args.data == "mesc"
    words = ["python -m train.evaluate", "--data", "mesc" if mesc else _place(args.data)]
    if mesc:
        words += ["--split", args.split]
    if mesc or args.data.endswith(".jsonl"):
        words += ["--protocol", args.protocol]
        words += ["--rate", str(args.rate)] if args.protocol == "corrected-history" else []
    for flag in (
        "no_context",
        "transcribe",
        "held_out",
        "responses",
        "rewards",
        "smes",
        "descriptions",
        "no_descriptions",
    ):
        words += [f"--{flag.replace('_', '-')}"] if getattr(args, flag) else []
    words += ["--no-video"] if not args.video else []
    words += ["--no-audio"] if not args.audio else []
    for key in ("recent_turns", "history_turns", "limit", "ablations", "url", "price_in", "price_out"):
        words += [f"--{key.replace('_', '-')}", str(getattr(args, key))] if getattr(args, key) is not None else []
    for key, default in (("temperature", 0.0), ("max_tokens", Sampling().max_tokens), ("seed", 0)):
        words += [f"--{key.replace('_', '-')}", str(getattr(args, key))] if getattr(args, key) != default else []
    if args.endpoint:
        return " ".join([*words, "--endpoint", shlex.quote(args.endpoint)])
    if args.llm:
        return " ".join([*words, "--llm", _place(args.llm)])
    return " ".join([*words, "--checkpoint", _place(args.checkpoint)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="mesc, a file of dialogues (jsonl), a folder with labels.csv, or DFEW's")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("--protocol", default="gold-history", choices=PROTOCOLS)
    parser.add_argument("--rate", type=float, default=0.0, help="of corrections, for corrected-history")
    who = parser.add_argument_group("who is asked")
    who.add_argument("--checkpoint", default=DEFAULT)
    who.add_argument("--llm", help="a folder with a causal language model, or smollm2: zero-shot, the same prompt")
    who.add_argument("--endpoint", metavar="MODEL", help="a model behind an OpenAI-compatible endpoint")
    who.add_argument("--url", help="of the endpoint; OpenAI's by default. The key is read from OPENAI_API_KEY")
    who.add_argument("--cache", type=Path, help="file for the endpoint's answers; beside --out by default")
    who.add_argument("--price-in", type=float, help="money per million tokens read, to state the cost")
    who.add_argument("--price-out", type=float, help="money per million tokens written")
    who.add_argument("--concurrency", type=int, default=8, help="items that a language model is asked about at a time")
    who.add_argument("--smes", action="store_true", help="a language model step by step, cues as text (SMES)")
    given = parser.add_argument_group("what it is given")
    given.add_argument(
        "--recent-turns", type=int, help="turns as text beside <history>; the checkpoint's own by default"
    )
    given.add_argument(
        "--history-turns", type=int, help="turns before at the most, compressed ones too; all by default"
    )
    given.add_argument("--no-context", action="store_true", help="leave problem and situation out")
    given.add_argument("--descriptions", action="store_true", help="give the data set's words for what is seen")
    given.add_argument("--no-descriptions", action="store_true", help="ablations: not even where the data have them")
    given.add_argument("--no-video", dest="video", action="store_false", help="leave the pictures of clips out")
    given.add_argument("--no-audio", dest="audio", action="store_false", help="leave the sound of clips out")
    given.add_argument("--transcribe", action="store_true", help="clip folders: give the model the spoken words too")
    given.add_argument("--held-out", action="store_true", help="clip folders: only the people kept apart from training")
    given.add_argument("--limit", type=int, help="dialogues or clips at the most, for a quick look")
    said = parser.add_argument_group("what is asked")
    said.add_argument("--responses", action="store_true", help="the reply too (the fourth task), with its scores")
    said.add_argument("--rewards", action="store_true", help="the replies' reward and its parts, without any endpoint")
    said.add_argument("--temperature", type=float, default=0.0, help="of the reply; 0 takes the likeliest token")
    said.add_argument(
        "--max-tokens",
        type=int,
        default=Sampling().max_tokens,
        help=f"of the reply; a language model's lines get {LINE_TOKENS} more",
    )
    said.add_argument("--seed", type=int, default=0)
    said.add_argument("--ablations", choices=tuple(ABLATIONS), help="every variant of a table, one after another")
    parser.add_argument(
        "--compare", type=Path, nargs=2, metavar=("A", "B"), help="two reports on the same items; asks nobody"
    )
    parser.add_argument("--out", type=Path, help="JSON with everything, Markdown and HTML beside it")
    return parser


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _compare(paths: Sequence[Path], out: Path | None) -> None:
    first, second = map(load_report, paths)
    found = compare_reports(first, second) | {
        "command": f"python -m train.evaluate --compare {paths[0].name} {paths[1].name}",
        "date": _now(),
    }
    print_comparison(found)
    if out:
        out.write_text(json.dumps(found, indent=1), encoding="utf-8")
        write_reports(found, out)


def main(argv: Sequence[str] | None = None) -> None:
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        _run(parser, args)
    except KeyboardInterrupt:
        if args.out and args.data:
            print(
                f"\nStopped. What was done is kept beside {args.out}; the same command goes on with it.",
                file=sys.stderr,
            )
        raise


def _run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.compare:
        _compare(args.compare, args.out)
        return
    if not args.data:
        parser.error("--data or --compare is required")
    if args.llm and args.endpoint:
        raise DataError("Expected --llm or --endpoint, got both.")
    if args.smes and not (args.llm or args.endpoint):
        raise DataError("SMES is a way to ask a language model: name it with --llm or --endpoint.")
    if args.rewards and not args.responses:
        raise DataError("Rewards are of replies: ask for them with --responses.")
    dialogues = args.data == "mesc" or args.data.endswith(".jsonl")
    # A language model needs the towers only where turns have clips.
    needed = not (args.llm or args.endpoint) or not dialogues or args.data.endswith(".jsonl")
    engine = Engine(args.checkpoint) if needed else None
    run: Callable[[argparse.Namespace, Any], dict[str, Any]] = evaluate_mesc
    if not dialogues:
        run = evaluate_dfew if is_dfew(Path(args.data)) else evaluate_folder
    weights = {"checkpoint": asdict(engine.checkpoint.id)} if engine and not (args.llm or args.endpoint) else {}
    report = run(args, engine) | weights | {"command": _command(args), "date": _now()}
    print_table(report)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1), encoding="utf-8")
        write_reports(report, args.out)
        _discard_journals(args.out)


if __name__ == "__main__":
    run_command(main)
