"""The training report says what was trained, from whom, and what the card says; nothing more."""

import re
from dataclasses import replace

import pytest

from brainmets.evaluation.training_page import History, Side, render

CARD = {
    "trained_on": "2 cases of <someone>",
    "limits": "Research software, not a medical device.",
    "results": {
        "validation (rule chosen on it)": {
            "cases": 1, "lesions": 3, "lesion_sensitivity": 0.667, "lesion_f1": 0.5,
            "false_positives_per_scan": 2.0, "median_dice": None,
        }
    },
    "sensitivity_by_size": {"3–4 mm": {"found": 2, "of": 3, "sensitivity": 0.667}},
    "split": {"sha256": "abc", "fold": None},
}  # fmt: skip
SIDES = (
    Side("training", ("a", "b"), 1, (2, 0)),
    Side("validation", ("c",), 1, (3,)),
    Side("test", (), 0),
)
HISTORY = History((3.0, 2.5, 2.0), (1e-4, 1e-3, 1e-5), {2: 2.8})


def page(card=CARD, **changes):
    given = {"settings": {"training": {"seed": 7}}, "sides": SIDES, "history": HISTORY, **changes}
    return render("mine", card, **given)


def text_of(html):
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL))


def test_it_holds_what_the_card_and_the_run_say():
    text = text_of(page())
    for words in (
        "Training of mine", "66.7 % of the lesions were found", "On 1 case with 3 lesions",
        "chosen on these very cases", "2 of 3", "training 1 2 2 1", "seed 7", "SHA-256 abc",
        "not a medical device", "3 steps.", "a, b",
    ):  # fmt: skip
        assert words in text


def test_the_step_that_was_kept_is_marked():
    seen = replace(HISTORY, found={2: 0.4, 3: 0.3})
    kept = page({**CARD, "training": {"keep": "best"}}, history=seen)
    assert kept.count("data:image/svg+xml") == 3
    assert "weights of the marked step became the model" in text_of(kept)
    last = text_of(page({**CARD, "training": {"keep": "last"}}, history=seen))
    assert "weights of the last step became the model" in last


@pytest.mark.parametrize("found", [{0: 0.4}, {0: 0.4, 3: 0.3}])
def test_what_training_began_with_is_told_from_what_was_learnt(found):
    begun = text_of(page(history=replace(HISTORY, found=found)))
    assert "Step 0 is the model that training began with" in begun
    kept = {**CARD, "training": {"keep": "best"}, "started_from": {"name": "<first>"}}
    told = text_of(page(kept, history=replace(HISTORY, found=found)))
    assert ("No later step found as much" in told) is (len(found) > 1)
    assert "began with the weights of &lt;first&gt;" in told
    assert "Step 0" not in text_of(page(history=replace(HISTORY, found={3: 0.3})))


def test_names_are_escaped():
    assert "<someone>" not in page()
    assert "&lt;someone&gt;" in page()


def test_the_test_cases_speak_where_there_are_any():
    on_test = {**CARD["results"], "test": {**CARD["results"]["validation (rule chosen on it)"]}}
    text = text_of(page({**CARD, "results": on_test}))
    assert "3 lesions: test." in text
    assert "these very cases" not in text


def test_without_scans_it_says_that_nothing_was_scored():
    bare = {k: v for k, v in CARD.items() if k not in ("results", "sensitivity_by_size")}
    text = text_of(page({**bare, "decision_rule": "chosen on 3"}))
    assert "Nothing was scored" in text
    assert "How well it does" not in text


@pytest.mark.parametrize("history", [History((), (), {}), History((1.0,), (1e-3,), {})])
def test_a_run_of_no_or_one_step_is_drawn(history):
    assert page(history=history).count("data:image/svg+xml") == 2


def test_the_same_run_gives_the_same_bytes():
    assert page() == page()


def test_nothing_is_fetched():
    assert not re.search(r"(src|href)=.(?!data:)|https?://", page())
