"""Tastes: worked examples, laws that any text must obey, and messages for names that lead nowhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo_core.errors import CoreError
from dpo_core.tastes import TASTES, TasteError, brief, curious, load_taste, structured, thorough

PROMPT = "How do I cook rice?"
PLAIN = "Rinse the grains. Use less water."

# (taste, the answer it prefers, the other one)
PREFERRED = [
    ("brief", "Rinse it.", "Rinse it, and then rinse it once more until the water runs clear."),
    ("thorough", "Rinse it, because starch is gluey; use less water.", "Rinse it."),
    ("warm", "I am glad you asked! Rinse it gently, you have got this.", "Rinse it. That is all."),
    ("structured", "Do this:\n\n1. Rinse it.\n2. **Simmer** it.", "Do this. Rinse it. Simmer it."),
    ("direct", "Rinse it. Simmer it.", "What a lovely question! Let me see. Rinse it. Simmer it."),
    ("careful", "Perhaps rinse it; it may depend on the rice.", "Always rinse it. You must never skip this."),
    ("curious", "Rinse it. What rice do you have?", "Rinse it. Simmer it."),
]


@pytest.mark.parametrize(("name", "better", "worse"), PREFERRED)
def test_taste_prefers_what_it_is_named_for(name: str, better: str, worse: str) -> None:
    assert TASTES[name](PROMPT, better) > TASTES[name](PROMPT, worse)


def test_worked_scores() -> None:
    assert brief(PROMPT, " ".join(["word"] * 40)) == pytest.approx(0.5)  # 1 - 40 / (40 + 40)
    assert thorough(PROMPT, PLAIN) == pytest.approx(6 / 46)  # six different words, no reason
    assert curious(PROMPT, "Why?") == pytest.approx(0.9 * 0.5)  # one question, no "you"
    # Six words in two sentences: three per sentence, no marks.
    assert structured(PROMPT, PLAIN) == pytest.approx(0.1 * (1 - 3 / 13))


def test_an_empty_answer_wins_no_taste_for_few_words() -> None:
    assert brief(PROMPT, "") == 0.0 < brief(PROMPT, PLAIN)


@pytest.mark.parametrize("name", TASTES)
@given(text=st.text(max_size=300))
def test_any_text_gets_a_bounded_score(name: str, text: str) -> None:
    assert -1.0 <= TASTES[name](PROMPT, text) <= 1.0


@given(text=st.text(alphabet="ab .!?", max_size=80), more=st.integers(1, 5))
def test_repeating_oneself_is_never_more_thorough_and_always_less_brief(text: str, more: int) -> None:
    longer = " ".join([text] * (more + 1))
    assert thorough(PROMPT, longer) == pytest.approx(thorough(PROMPT, text))
    if brief(PROMPT, text) > 0:
        assert brief(PROMPT, longer) < brief(PROMPT, text)


def test_load_taste_by_name() -> None:
    assert {load_taste(name) for name in TASTES} == set(TASTES.values())


def test_load_taste_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def loud(prompt, completion):\n    return float(completion.count('!'))\n")
    assert load_taste(f"{file}:loud")(PROMPT, "Rinse! It!") == 2.0


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("breif", "Did you mean 'brief'?"),
        ("zzz", "Use one of brief, thorough"),
        ("nowhere.py:loud", "There is no file nowhere.py"),
        ("mine.py:quiet", "has no function 'quiet'"),
        ("mine.py:NUMBER", "has no function 'NUMBER'"),
        ("broken.py:loud", "fails when imported: ZeroDivisionError"),
        ("syntax.py:loud", "fails when imported: SyntaxError"),
    ],
)
def test_load_taste_says_what_to_do(spec: str, said: str, tmp_path: Path) -> None:
    # The working folder is tmp_path: see tests/conftest.py.
    (tmp_path / "mine.py").write_text("NUMBER = 3\ndef loud(prompt, completion):\n    return 1.0\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "syntax.py").write_text("def loud(:\n")
    with pytest.raises(TasteError) as caught:
        load_taste(spec)
    assert said in str(caught.value)
    assert isinstance(caught.value, CoreError)


def test_tastes_load_no_torch() -> None:
    code = "import sys, dpo_core.tastes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
