"""What a layer's graph makes of a rule's groups, as values: no tensor takes part."""

from __future__ import annotations

import pytest

from relprop.engine.ops.simplify import Facts, complement, sign_of, simplify
from relprop.rules import (
    AffineRule,
    AlphaBetaRule,
    Combined,
    FlatRule,
    GeneralizedGammaRule,
    Group,
    Term,
    WSquareRule,
    ZBoxRule,
    ZeroRule,
    ZPlusRule,
    absolute,
    keep,
    negative,
    ones,
    positive,
)

NOTHING = Facts()
RECTIFIED = Facts(rectified=True)
BETWEEN_RELUS = Facts(nonneg=True, biased=True, rectified=True)


def test_nothing_proved_leaves_rules_as_they_are() -> None:
    for rule in (ZeroRule(), ZPlusRule(), AlphaBetaRule(), WSquareRule(), FlatRule(), GeneralizedGammaRule(0.5)):
        assert simplify(rule.groups(), NOTHING) == rule.groups()


def test_terms_of_negative_inputs_vanish_where_there_are_none() -> None:
    facts = Facts(nonneg=True)
    assert simplify(ZPlusRule().groups(), facts) == (Group((Term(keep, positive, positive),)),)
    excitation, inhibition = simplify(AlphaBetaRule(2, 1).groups(), facts)
    assert excitation == Group((Term(keep, positive, positive),), 2.0)
    assert inhibition == Group((Term(keep, negative, negative),), -1.0)


def test_terms_of_negative_weights_vanish_where_there_are_none() -> None:
    """So the αβ-rule on an average pool is α times the share of positive, β times that of negative inputs."""
    excitation, inhibition = simplify(AlphaBetaRule(2, 1).groups(), Facts(positive=True))
    assert excitation.terms == (Term(positive, positive, positive),)
    assert inhibition.terms == (Term(negative, positive, None),)


@pytest.mark.parametrize("biased", [True, False])
def test_a_term_whose_bias_counts_stays(biased: bool) -> None:
    group = Group((Term(positive, keep, None), Term(negative, keep, positive)))
    (found,) = simplify((group,), Facts(nonneg=True, biased=biased))
    assert found == (group if biased else Group((Term(keep, keep, None),)))


def test_a_group_of_which_nothing_is_left_stays() -> None:
    group = Group((Term(negative, keep, None),))
    assert simplify((group,), Facts(nonneg=True)) == (group,)


def test_terms_of_one_input_are_one_term() -> None:
    group = Group((Term(keep, positive, keep, 2.0), Term(ones, keep, None), Term(keep, negative, None, -1.0)))
    (found,) = simplify((group,), NOTHING)
    weights = Combined(((2.0, positive), (-1.0, negative)))
    assert found.terms == (Term(keep, weights, Combined(((2.0, keep),))), Term(ones, keep, None))


def test_outputs_that_get_nothing_need_no_group() -> None:
    (group,) = simplify(GeneralizedGammaRule(0.5).groups(), BETWEEN_RELUS)
    assert group.mask == "all"
    assert group.terms == (Term(keep, *[Combined(((1.25, keep), (0.25, absolute)))] * 2),)


def test_positive_contributions_complement_negative_ones_where_z_is_positive() -> None:
    groups = simplify(AlphaBetaRule(2, 1).groups(), RECTIFIED)
    assert complement(groups, RECTIFIED) is groups[0]
    assert complement(groups[::-1], RECTIFIED) is groups[0]
    assert complement(groups, NOTHING) is None  # z may be small, and the difference lose all digits
    between = simplify(AlphaBetaRule(2, 1).groups(), BETWEEN_RELUS)
    assert complement(between, BETWEEN_RELUS) is between[0]


@pytest.mark.parametrize(
    "groups",
    [
        (Group((Term(keep, positive, positive),)),),
        (Group((Term(keep, positive, positive),)), Group((Term(keep, negative, None),))),
        (Group((Term(keep, positive, positive, 2.0),)), Group((Term(keep, negative, negative),))),
        (Group((Term(keep, positive, positive),)), Group((Term(absolute, negative, negative),))),
        (Group((Term(keep, positive, absolute),)), Group((Term(keep, negative, negative),))),
        (Group((Term(positive, positive, positive),)), Group((Term(positive, negative, negative),))),
    ],
    ids=["one group", "half a bias", "twice", "other inputs", "another bias", "positive inputs alone"],
)
def test_groups_that_do_not_add_up_to_z_complement_nothing(groups: tuple[Group, ...]) -> None:
    assert complement(groups, BETWEEN_RELUS) is None


@pytest.mark.parametrize(
    ("rule", "nonneg", "signs"),
    [
        (ZPlusRule(), False, [1]),
        (AlphaBetaRule(2, 1), False, [1, -1]),
        (WSquareRule(), False, [1]),
        (FlatRule(), False, [1]),
        (ZeroRule(), True, [0]),
        (ZBoxRule(0.0, 1.0), True, [0]),
        (AffineRule(), False, [0]),
    ],
    ids=repr,
)
def test_signs_of_denominators(rule: AffineRule, nonneg: bool, signs: list[int]) -> None:
    assert [sign_of(group, nonneg) for group in rule.groups()] == signs
