"""Known tastes: functions that score a completion, so that simulated annotators have something to want.

Each is a plain heuristic on the text, between 0 and 1 or close to it; higher is more to that taste. They read
English, know nothing of the demo's grammar, and are meant to be read and doubted. Without torch on purpose.

A taste of your own is a Python file with a function `(prompt: str, completion: str) -> float`, named on the
command line as `path/to/file.py:function`.
"""

import importlib.util
import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from dpo_core.errors import CoreError

Taste = Callable[[str, str], float]

LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+", re.MULTILINE)
HEADING = re.compile(r"^#{1,6} ", re.MULTILINE)
BOLD = re.compile(r"\*\*[^*\n]+\*\*")
SENTENCE_END = re.compile(r"(?<=[.!?:])\s+|\n+")
YOU = re.compile(r"\b(?:you|your|yourself)\b", re.IGNORECASE)
REASON = re.compile(r"\b(?:because|since|so that|that way)\b|;", re.IGNORECASE)
KIND = re.compile(
    r"\b(?:glad|lovely|be kind|kindly|gentle|gently|my dear|proud|cheering|thank you|thanks for|don't worry|no worries|"
    r"i promise|i hope|happy to|happier|enjoy|smile|together|patient with|well done|good luck|you have got this|"
    r"you've got this|not alone|i am sorry|i'm sorry|deep breath|close to my heart|that feeling|favourite|wonderful|"
    r"welcome|you will be surprised|why not|i love|you are doing)\b",
    re.IGNORECASE,
)
CURT = re.compile(r"\b(?:just|listen up|easy|done|that is all|now go|straight to it|obviously)\b", re.IGNORECASE)
HEDGE = re.compile(
    r"\b(?:may|might|perhaps|maybe|probably|possibly|usually|often|depends?|vary|varies|sometimes|in many cases|"
    r"cannot be sure|not sure|judgement|worth (?:asking|trying)|does not work for everyone|if)\b",
    re.IGNORECASE,
)
ABSOLUTE = re.compile(r"\b(?:always|never|every|just|only|must|all|no|at once)\b", re.IGNORECASE)
FILLER = re.compile(
    r"\b(?:question|glad|thank|lovely|overview|common|worry|alone|know that feeling|breath|well done|let us|let me|"
    r"when it comes to|here (?:is|are)|sure|certainly|of course|simple|easy|listen up|straight to it|no magic|"
    r"rocket science|overthink|daunting|nobody is born|soft spot|usual advice|more than one way|matter of|few rules|"
    r"the basics|few details|thought about|few things|quickly solved|steps go a long way)\b",
    re.IGNORECASE,
)


class TasteError(CoreError):
    """A taste that was asked for cannot be used; the message says what to change."""


def words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())


def sentences(text: str) -> list[str]:
    return [part for part in SENTENCE_END.split(LIST_ITEM.sub("", text)) if part.strip()]


def saturate(amount: float, half: float) -> float:
    """Map 0 and more to 0..1, with 0.5 at `half`: a tenth hit counts less than the first."""
    return amount / (amount + half)


def rate(pattern: re.Pattern[str], text: str) -> float:
    """Hits per word, 0..1 for words; 0 for an empty text."""
    return len(pattern.findall(text)) / max(1, len(words(text)))


def brief(prompt: str, completion: str) -> float:
    """Few words: 1 for none, 0.5 at 40. An empty answer is no answer and scores 0."""
    count = len(words(completion))
    return 1 - saturate(count, 40) if count else 0.0


def thorough(prompt: str, completion: str) -> float:
    """Many different words and reasons; repeating oneself earns nothing."""
    return saturate(len(set(words(completion))) + 3 * len(REASON.findall(completion)), 40)


def warm(prompt: str, completion: str) -> float:
    """Kind words, exclamation marks and a little "you", less curt words."""
    kindness = len(KIND.findall(completion)) + 0.5 * completion.count("!") + 2 * rate(YOU, completion)
    return saturate(kindness, 2) - 0.3 * saturate(len(CURT.findall(completion)), 1)


def structured(prompt: str, completion: str) -> float:
    """List items, bold words, headings; among plain prose, short sentences and paragraphs win narrowly."""
    marks = len(LIST_ITEM.findall(completion)) + 0.5 * len(BOLD.findall(completion))
    marks += len(HEADING.findall(completion)) + 0.25 * completion.count("\n\n")
    per_sentence = len(words(completion)) / max(1, len(sentences(completion)))
    return 0.9 * saturate(marks, 2) + 0.1 * (1 - saturate(per_sentence, 10))


def direct(prompt: str, completion: str) -> float:
    """Few words before the first sentence with substance, few hedges, and no long first sentence."""
    parts = sentences(completion)
    lead = next((n for n, part in enumerate(parts) if not is_filler(part)), len(parts))
    wait = len(words(" ".join(parts[:lead])))
    first = len(words(parts[lead])) if lead < len(parts) else 40
    return 1 - saturate(wait + 0.3 * first + 2 * len(HEDGE.findall(completion)), 10)


def is_filler(sentence: str) -> bool:
    return sentence.rstrip().endswith(("!", ":")) or FILLER.search(sentence) is not None


def careful(prompt: str, completion: str) -> float:
    """Hedges and reasons, less absolute words."""
    care = len(HEDGE.findall(completion)) + 0.3 * len(REASON.findall(completion))
    return saturate(care, 1.5) - 0.5 * saturate(len(ABSOLUTE.findall(completion)), 2)


def curious(prompt: str, completion: str) -> float:
    """Asks back: each question counts, more when it is about the reader; otherwise a little for "you"."""
    asked = [part for part in sentences(completion) if part.rstrip().endswith("?")]
    interest = len(asked) + 0.5 * sum(1 for part in asked if YOU.search(part))
    return 0.9 * saturate(interest, 1) + 0.1 * saturate(10 * rate(YOU, completion), 1)


TASTES: dict[str, Taste] = {
    taste.__name__: taste for taste in (brief, thorough, warm, structured, direct, careful, curious)
}


def load_taste(spec: str) -> Taste:
    """Return the taste called `spec`, or the function at `path/to/file.py:function`.

    Raises:
        TasteError: no built-in taste has that name, or the file or the function is missing or broken.
    """
    if spec in TASTES:
        return TASTES[spec]
    path, colon, name = spec.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise TasteError(unknown_taste(spec))
    return taste_in_file(Path(path), name)


def unknown_taste(spec: str) -> str:
    near = get_close_matches(spec, TASTES, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"No taste is called {spec!r}. {hint}Use one of {', '.join(TASTES)}, or path/to/file.py:function."


def taste_in_file(path: Path, name: str) -> Taste:
    taste = getattr(run_file(path), name, None)
    if callable(taste):
        found: Taste = taste
        return found
    raise TasteError(f"{path} has no function {name!r}. Write `def {name}(prompt, completion): ...` there.")


def run_file(path: Path) -> ModuleType:
    """Import a Python file that belongs to no package. The user's code runs here, and may fail in any way."""
    if not path.is_file():
        raise TasteError(f"There is no file {path}. A taste of your own is named path/to/file.py:function.")
    spec = importlib.util.spec_from_file_location(f"pairloop_taste_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise TasteError(f"{path} cannot be imported as Python.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise TasteError(f"{path} fails when imported: {type(error).__name__}: {error}") from error
    return module
