"""The same failure on two machines is the run's own; on one it may be the machine's."""

from __future__ import annotations

from dataclasses import replace

from sweeps.attempt.job import Trouble
from sweeps.driver.verdict import Retries, judge
from sweeps.ledger.types import Claim, State
from tests.sweeps.simulation import failed

BOOM = failed("IndexError: 7")


def said(host: str, before: str | None, *, hosts: int = 4, failures: int = 1, outcome=BOOM):
    claim = Claim(
        key="k", attempt=failures + 1, failures=failures, last_signature=BOOM.signature, last_host=before
    )
    return judge(replace(outcome, host=host), claim, now=0.0, hosts=hosts, retries=Retries(attempts=5))


def test_two_hosts_agree_that_it_is_the_run():
    verdict = said("b", "a")
    assert verdict.state == State.FAILED
    assert "the same on two hosts, a and b" in verdict.sentence


def test_one_host_of_several_is_not_believed_before_the_tries_are_used_up():
    assert said("a", "a").state == State.WAITING
    assert said("a", "a", failures=4).state == State.FAILED
    assert said("a", "a", hosts=1).state == State.FAILED


def test_another_failure_or_a_lost_worker_is_tried_again():
    assert said("b", "a", outcome=failed("KeyError: 7")).state == State.WAITING
    assert said("b", "a", outcome=failed("IndexError: 7", Trouble.LOST)).state == State.WAITING


def test_a_lost_worker_counts_only_where_the_run_got_nowhere():
    lost = replace(failed("the worker was lost", Trouble.LOST), host="a")
    retries = Retries(attempts=1, lost=3, wait_s=2, factor=4, longest_wait_s=20)

    def verdict(failures: int, advanced: bool):
        claim = Claim(key="k", attempt=9, failures=failures)
        return judge(lost, claim, now=0.0, advanced=advanced, retries=retries)

    assert [verdict(n, False).state for n in (0, 1, 2)] == [State.WAITING, State.WAITING, State.FAILED]
    assert [verdict(n, False).retry_at for n in (0, 1)] == [2, 8]
    assert verdict(2, True).state == State.WAITING
    assert not verdict(2, True).counts
    assert verdict(0, False).elsewhere
    assert verdict(0, True).elsewhere


def node_ran_low(**at):
    low = failed("Ray ended the worker to save the node's memory", Trouble.NODE_MEMORY)
    return judge(low, Claim(key="k", attempt=1), now=0.0, **at, retries=Retries())


def test_a_node_low_on_memory_is_waited_out_longer_and_longer():
    verdicts = [node_ran_low(micro_batch=8, pauses=pauses) for pauses in range(5)]
    assert {(v.state, v.micro_batch, v.counts, v.elsewhere) for v in verdicts} == {
        (State.WAITING, None, False, True)
    }
    waits = [verdict.retry_at for verdict in verdicts]
    assert waits == sorted(waits)
    assert waits[-1] > 10 * waits[0]


def test_a_run_that_is_large_itself_or_meets_it_again_and_again_goes_on_with_fewer_sequences():
    assert node_ran_low(micro_batch=8, large=True).micro_batch == 4
    assert node_ran_low(micro_batch=8, pauses=Retries().lost).micro_batch == 4
    assert node_ran_low(micro_batch=1, pauses=Retries().lost).counts, "and in the end it is given up"
