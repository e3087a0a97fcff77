"""A prepared corpus is found by its fingerprint."""

from __future__ import annotations

from pathlib import Path

from scaling.data import prepare
from sweeps.sample.corpora import prepared_folder


def test_the_folder_is_found_by_its_fingerprint_in_any_of_the_places(tmp_path: Path) -> None:
    chain = prepare("synthetic:markov?vocab=8", "ids", tmp_path / "a")
    topics = prepare("synthetic:topics?topics=4", "ids", tmp_path / "b")
    places = [tmp_path / "a", tmp_path / "nowhere", tmp_path / "b"]
    assert prepared_folder(chain.fingerprint, places) == chain.folder
    assert prepared_folder(topics.fingerprint, places) == topics.folder
    assert prepared_folder(topics.fingerprint, places[:2]) is None
