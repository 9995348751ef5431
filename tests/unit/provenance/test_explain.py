"""An explanation on a scripted model: numbers by hand, and where a call may stand."""

import math

import pytest

from tests.support.builders import document
from tests.support.scripted_lm import ScriptedLM
from toolformer_core.config.pipeline import ScoreConfig
from toolformer_core.errors import ConfigError
from toolformer_core.provenance.explain import explain_call
from toolformer_core.records import DropReason
from toolformer_core.tools.calculator import Calculator

TEXT = "Of 34 and 57 the sum is 91 ."  # tokens: Of 34 and 57 the sum is 91 .
WITH_RESULT = ("[Calculator(34 + 57) -> 91]\n", TEXT)
WITH_EMPTY_RESULT = ("[Calculator(34 + 57) -> ]\n", TEXT)
CONFIG = ScoreConfig()
LM = ScriptedLM(
    losses={
        ("", TEXT): [9, 9, 9, 9, 9, 3, 3, 6, 3],
        WITH_EMPTY_RESULT: [9, 9, 9, 9, 9, 3, 3, 3, 3],
        WITH_RESULT: [9, 9, 9, 9, 9, 3, 3, 0, 3],
    }
)


def explain(char_offset, *, lm=LM, threshold=0.5, config=CONFIG):
    call = ("34 + 57", "91")
    return explain_call(document(text=TEXT), char_offset, Calculator(), call, lm, config, threshold)


def test_explain_call_losses_and_weights_by_hand():
    # Two tokens are left from " 91" on, so the weights 5/15 and 4/15 become 5/9 and 4/9.
    found = explain(23)
    assert [(t.text, t.weight) for t in found.tokens] == [
        (" 91", pytest.approx(5 / 9)),
        (" .", pytest.approx(4 / 9)),
    ]
    assert [t.nll_without_call for t in found.tokens] == [6, 3]
    assert [t.nll_with_empty_result for t in found.tokens] == [3, 3]
    assert [t.nll_with_result for t in found.tokens] == [0, 3]
    assert found.loss_without_call == pytest.approx((5 * 6 + 4 * 3) / 9)
    assert found.loss_with_empty_result == pytest.approx(3)
    assert found.loss_with_result == pytest.approx(4 * 3 / 9)
    assert found.loss_reduction == pytest.approx(3 - 4 * 3 / 9)
    assert (found.kept, found.reason, found.is_right) == (True, None, True)


def test_explain_call_in_place_with_flat_weights_by_hand():
    lm = ScriptedLM(
        losses={
            ("", TEXT): [9] * 7 + [6, 3],
            (" [Calculator(34 + 57) -> ]", TEXT): [9] * 7 + [4, 3],
            (" [Calculator(34 + 57) -> 91]", TEXT): [9] * 7 + [0, 2],
        }
    )
    found = explain(23, lm=lm, config=ScoreConfig(token_weights="flat", prefix_position="in_place"))
    assert [t.weight for t in found.tokens] == [0.5, 0.5]
    losses = (found.loss_without_call, found.loss_with_empty_result, found.loss_with_result)
    assert losses == (4.5, 3.5, 1.0)
    assert found.loss_reduction == 2.5


def test_explain_call_below_the_threshold_gives_the_reason():
    found = explain(23, threshold=2.0)
    assert (found.kept, found.reason) == (False, DropReason.BELOW_THRESHOLD)
    assert found.filtering_threshold == 2.0


def test_explain_call_that_hurts_has_all_losses_measured():
    lm = ScriptedLM(losses={**LM.losses, WITH_RESULT: [9] * 9})
    found = explain(23, lm=lm)
    assert found.loss_reduction == pytest.approx(3 - 9)
    assert all(t.nll_with_empty_result == 3 for t in found.tokens)


def test_explain_call_behind_a_space_stands_before_it():
    assert explain(24) == explain(23)


def test_explain_call_at_the_end_scores_nothing():
    found = explain(len(TEXT))
    assert (found.tokens, found.loss_reduction, found.kept) == ((), 0.0, False)


def test_explain_call_inside_a_token_names_its_ends():
    with pytest.raises(ConfigError, match=r"--at 4: inside the token ' 34'; expected 2 or 5"):
        explain(4)


@pytest.mark.parametrize("char_offset", [-1, len(TEXT) + 1])
def test_explain_call_outside_the_text_is_refused(char_offset):
    with pytest.raises(ConfigError, match=f"expected 0 to {len(TEXT)}"):
        explain(char_offset)


def test_explain_call_loss_that_is_no_number_is_not_finite():
    lm = ScriptedLM(losses={**LM.losses, WITH_RESULT: [math.nan] * 9})
    assert explain(23, lm=lm).reason is DropReason.NOT_FINITE
