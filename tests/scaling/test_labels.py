"""Labels of a spec: what they may be, and what is said of one that a network does not have."""

from __future__ import annotations

from typing import Any

import pytest

from scaling.errors import UserError
from scaling.labels import Labels, label_number
from scaling.spec import RunSpec
from tests.scaling.toys import toy_spec


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"of": "colour"}, "unknown labels 'colour'"),
        ({"of": "package", "classes": 1}, "classes is 1"),
        ({"of": "kind", "classes": 4}, "the kinds are source, test, documentation"),
        ({"of": "kind", "drop": 0.0}, "drop is 0"),
        ({"of": "kind", "drop": 1.0}, "drop is 1"),
        ({"of": "kind", "warm_share": 0.3}, "goes with 'of: clusters'"),
        ({"of": "clusters", "feature_noise": 1.5}, "feature_noise is 1.5"),
    ],
)
def test_values_out_of_range_are_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        Labels(**fields)


def test_a_label_is_known_by_number_or_name() -> None:
    assert label_number(2, 3) == label_number("2", 3) == label_number("c", 3, ("a", "b", "c")) == 2


@pytest.mark.parametrize(
    ("label", "classes", "names", "named"),
    [
        (0, 0, (), "trained without labels"),
        (3, 3, (), "labels 0 to 2"),
        (-1, 3, (), "labels 0 to 2"),
        ("tests", 2, ("test", "source"), "did you mean 'test'"),
        ("test", 2, (), "have no names"),
    ],
)
def test_an_unknown_label_is_said_in_a_sentence(
    label: int | str, classes: int, names: tuple[str, ...], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        label_number(label, classes, names)


def test_plans_know_what_labels_cost() -> None:
    """Two more bounds at the end, and for clusters a teacher."""
    plain, kind = toy_spec(), toy_spec(labels=Labels(of="kind"))
    clusters = toy_spec(labels=Labels(of="clusters"))
    assert [spec.final_bounds for spec in (plain, kind, clusters)] == [1, 3, 3]
    assert [spec.weight_copies - plain.weight_copies for spec in (kind, clusters)] == [0, 1]
    assert kind.training_flops() == plain.training_flops() < clusters.training_flops()


def test_a_spec_without_labels_does_not_mention_them() -> None:
    """So its key is what it was before there were labels."""
    assert "labels" not in toy_spec().to_dict()


def test_labels_are_part_of_the_key_and_survive_a_round_trip() -> None:
    specs = [toy_spec(), *(toy_spec(labels=Labels(of="package", classes=n)) for n in (3, 4))]
    assert len({spec.key for spec in specs}) == 3
    for spec in specs:
        assert RunSpec.from_dict(spec.to_dict()) == spec
        assert RunSpec.from_dict(spec.to_dict()).key == spec.key
