"""The five criteria of the paper's human evaluation in our own words, and the practice items of the tutorial.

All texts are written for this project; no line is from a data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from app.studies.records import Criterion

CRITERIA: Final = (
    Criterion(
        "fluency",
        "Fluency",
        "Which response reads more like something a person would say: grammatical, complete, easy to follow, without "
        "repetition. Judge the language alone; a fluent sentence may be useless in every other way.",
        "It sounds as if the last weeks have worn you out. What has been the hardest part?",
        "It sounds that the weeks is hard and weeks. What hardest part is it been for?",
    ),
    Criterion(
        "identification",
        "Identification",
        "Which response shows better that it has understood this client: what happened, what it is about, and what they may "
        "be feeling. Naming the wrong trouble is worse than staying general.",
        "You kept the promise, and he did not. That would leave many people hurt, and angry as well.",
        "Exams can be stressful for everyone. (The client spoke of a broken promise.)",
    ),
    Criterion(
        "comfort",
        "Comfort",
        "Which response would ease the client more: warmth, acceptance, room for the feeling. Cheering up, judging or "
        "explaining the feeling away does not comfort.",
        "There is nothing wrong with you for still missing her. Take the time that it needs.",
        "Others have it far worse, so there is no reason to cry.",
    ),
    Criterion(
        "suggestions",
        "Suggestions",
        "Which response helps the client better to take a next step: an idea, or a question that opens one, that fits the "
        "situation and can be done. A step that is pushed on the client, or not safe, counts against it. Where neither offers "
        "any, tie.",
        "Would it help to write down tonight what you want to say to her, and look at it again together next time?",
        "Just quit your job tomorrow, then the problem is gone.",
    ),
    Criterion(
        "overall",
        "Overall",
        "Which response would you rather have a therapist say at this moment, everything taken together. This is your own "
        "judgment, not the sum of the other rows.",
        "You have carried this alone for a long time. I would like to hear more about that evening, if you want to tell me.",
        "Okay. Next topic?",
    ),
)


@dataclass(frozen=True, slots=True)
class PracticeItem:
    """A client's turn with two responses, what the authors of the tutorial judged (of the first), and why.

    In the note ``{first}`` and ``{second}`` stand for the places, A or B, in which the rater sees the two.
    """

    key: str
    problem: str
    situation: str
    client: str
    first: str
    second: str
    gold: tuple[str, str, str, str, str]
    note: str

    def verdicts(self) -> dict[str, str]:
        """Criterion -> verdict of the first response."""
        return dict(zip((criterion.key for criterion in CRITERIA), self.gold, strict=True))


PRACTICE: Final = (
    PracticeItem(
        "practice-1", "work", "A project was taken away without a word.",
        "I worked on it for half a year, and now somebody else presents it. I feel like air.",
        "Half a year of your work, and then nobody even spoke to you. No wonder you feel unseen.",
        "You should look for another job. There are many good companies.",
        ("tie", "win", "win", "loss", "win"),
        "Both are fluent. {first} names what happened and how it feels. {second} is the only one with a step, if a hasty one; it "
        "passes over the hurt, which weighs more overall.",
    ),
    PracticeItem(
        "practice-2", "family", "Quarrels with a sister about the care of their mother.",
        "She says I never help. But I am the one who drives there every weekend.",
        "You drive there each weekend, and hear that you do nothing. Could you tell her what those weekends cost you, at a "
        "moment when neither of you is in a hurry?",
        "You drive there each weekend, and hear that you do nothing. That must hurt.",
        ("tie", "tie", "loss", "win", "win"),
        "Both have understood the same thing. {second} stays with the feeling; {first} offers something to try, gently.",
    ),
    PracticeItem(
        "practice-3", "sleep", "Wakes at three every night.",
        "I lie there and count the hours until the alarm.",
        "Counting hours hours it is hard to the sleep.",
        "Counting the hours makes the night even longer, I imagine.",
        ("loss", "loss", "loss", "tie", "loss"),
        "{first} is broken language, which also blurs what it understood. Neither offers a step: a tie there.",
    ),
    PracticeItem(
        "practice-4", "friendship", "An old friend has stopped answering.",
        "Maybe I said something stupid at her wedding. I go over every sentence.",
        "You are looking for the one sentence that explains her silence. What would you ask her, if you could?",
        "You are looking for the one sentence that explains her silence. What would you ask her, if you could?",
        ("tie", "tie", "tie", "tie", "tie"),
        "The two are the same, word by word. Where you see no difference, tie is the right answer and not a weak one.",
    ),
    PracticeItem(
        "practice-5", "grief", "Father died in spring.",
        "Everyone says that time heals. It has been five months, and it does not.",
        "It is always darkest before the dawn. Think of the happy days and smile.",
        "Five months is not long for such a loss. It does not have to be better by now.",
        ("tie", "loss", "loss", "tie", "loss"),
        "{first} cheers up instead of listening, and repeats what the client has just said does not help. To think of happy "
        "days is no step that fits here.",
    ),
    PracticeItem(
        "practice-6", "study", "Second try at an examination in two weeks.",
        "If I fail again, it is over. I open the book and cannot read a line.",
        "That sounds frightening. Shall we find one page that you could begin with, and see how far ten minutes take you?",
        "That sounds frightening.",
        ("tie", "tie", "tie", "win", "win"),
        "Same understanding and same warmth; only {first} goes on to a step that is small enough.",
    ),
)  # fmt: skip
