"""Numbers, times and names as text: one form everywhere, and nothing from outside moves the cursor."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime

import pandas as pd
import pytest

from analysis.text import (
    count_text,
    duration,
    flops_text,
    interval_text,
    number_text,
    printable,
    size_text,
    time_text,
    value_text,
    without_secrets,
    without_zeros,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("masked", "masked"),
        ("größe 8×1", "größe 8×1"),
        ("\x1b]52;c;cGF5bG9hZA==\x07x", "\\x1b]52;c;cGF5bG9hZA==\\x07x"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("\u202eabc\x9b31m\u2028", "\\u202eabc\\x9b31m\\u2028"),
        ("\udc80", "\\udc80"),
        (7, "7"),
    ],
)
def test_what_would_move_a_cursor_is_escaped_and_the_rest_is_not(name: object, expected: str) -> None:
    assert printable(name) == expected
    assert printable(name).isprintable()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("postgresql://me:secret@h/db", "postgresql://***@h/db"),
        ("http://bob:p@ss@h:5000", "http://***@h:5000"),
        ("http://bob:p/ss@h", "http://***@h"),
        ("http://bob:12/3@h", "http://***@h"),
        ("https://hf_token@h/x", "https://***@h/x"),
        ("http://h/?password=s3&a=b;Api_Key=t", "http://h/?password=***&a=b;Api_Key=***"),
        ("s3://key:secret@bucket/x?region=us-east-1", "s3://***@bucket/x?region=us-east-1"),
        ("s3://bucket/x?secret_key=s&region=y", "s3://bucket/x?secret_key=***&region=y"),
        ("http://h:5000", "http://h:5000"),
        ("http://h/mail@x", "http://h/mail@x"),
        ("gs://bucket", "gs://bucket"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("/disk/a@b:c", "/disk/a@b:c"),
        ("OSError: http://u:p@h refused, ask me@h", "OSError: http://***@h refused, ask me@h"),
    ],
)
def test_no_login_or_token_of_an_address_is_shown(address: str, expected: str) -> None:
    assert without_secrets(address) == expected


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        (count_text, 5000, "5.00k"),
        (count_text, 163055232, "163M"),
        (count_text, 999_999, "1.00M"),
        (count_text, 12_345, "12.3k"),
        (count_text, 1.2e12, "1.20T"),
        (count_text, 512, "512"),
        (count_text, 2.5e15, "2.50e15"),
        (count_text, math.inf, "∞"),
        (count_text, None, "–"),
        (flops_text, 1.2e10, "1.2e10"),
        (flops_text, 3e-7, "3.0e-7"),
        (flops_text, math.nan, "–"),
        (number_text, 0.51234, "0.512"),
        (number_text, 2.0, "2.00"),
        (number_text, 98765.4, "98765"),
        (number_text, 1.234e5, "1.23e5"),
        (number_text, 1.5e-7, "1.50e-7"),
        (number_text, 0, "0"),
        (number_text, -math.inf, "-∞"),
        (number_text, pd.NA, "–"),
        (duration, 42, "42 s"),
        (duration, 450, "7.5 min"),
        (duration, 3.2 * 3600, "3.2 h"),
        (duration, 2.1 * 86400, "2.1 days"),
        (size_text, 3.8e8, "380 MB"),
        (size_text, 1.2e9, "1.2 GB"),
        (time_text, datetime(2026, 3, 1, 10, tzinfo=UTC), "2026-03-01 10:00 UTC"),
    ],
)
def test_each_kind_of_number_has_one_form(text: Callable[..., str], value: object, expected: str) -> None:
    assert text(value) == expected


def test_the_ends_of_an_interval_have_the_form_of_its_value() -> None:
    assert interval_text(9.5e4, 8.0e4, 1.2e5) == "95000 [80000, 120000]"
    assert interval_text(1.2e5, 8.0e4, 2.0e5) == "1.20e5 [8.00e4, 2.00e5]"
    assert interval_text(9259, 7491, 11900, count_text) == "9.26k [7.49k, 11.9k]"
    assert interval_text(0.002, 0.0005, 0.01) == "0.00200 [0.000500, 0.0100]"


def test_an_end_that_is_numerically_nothing_is_written_as_0() -> None:
    assert interval_text(1.3, 1.98e-6, 2.03) == "1.30 [0, 2.03]"
    assert interval_text(1.3, 0.01, math.inf) == "1.30 [0.0100, ∞]"


def test_a_number_without_an_interval_stands_alone() -> None:
    assert interval_text(2e6, None, math.nan, count_text) == "2.00M"


def test_a_count_in_a_table_stays_a_whole_number() -> None:
    assert value_text("runs", 6) == "6"
    assert value_text("params", 5000) == "5.00k"
    assert value_text("loss", 2.0) == "2.000"


def test_ticks_have_no_zeros_at_the_end() -> None:
    texts = ("5.00k", "1.50M", "1.0e19", "1.5e19", "100", "0.10", "2.00", "1,000")
    assert [without_zeros(t) for t in texts] == ["5k", "1.5M", "1e19", "1.5e19", "100", "0.1", "2", "1,000"]
