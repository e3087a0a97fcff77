"""`scaling plan`: keys, places, what is skipped, what is new and why; and the schedule on a cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scaling.errors import UserError
from sweeps.driver.caps import Caps
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Entry, Needs, State
from sweeps.plan import prepare, timing
from sweeps.plan.plan import DataFacts
from sweeps.simulate.bought import bought_lines
from sweeps.simulate.cluster import parse_cluster
from sweeps.simulate.dry_run import schedule_table, show_plan, simulated, summary_lines
from sweeps.simulate.simulator import simulate
from tests.sweeps.simulation import entry

CONFIG = """
name: dry
families: [uniform]
grid:
  budgets: [1e8, 2e8]
  sizes: [8x1, 12x1, 16x1, 24x1]
context_length: 32
data: {corpus: "CORPUS"}
learning_rate: {base: 3e-3}
batch: {base_tokens: 64}
evaluation: {sequences: 8, noise_levels: 2}
"""


@pytest.fixture(autouse=True)
def quick_machine(monkeypatch):
    monkeypatch.setattr(timing, "matmul_flops_per_s", lambda shapes, threads: dict.fromkeys(shapes, 1e10))
    monkeypatch.setattr(timing, "gpu_names", lambda: ())


@pytest.fixture
def request_for(tmp_path: Path, monkeypatch):
    """A function from the text of a config to what was asked for."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for name in "abc":
        (texts / f"{name}.txt").write_text(f"{name} quick brown fox jumps over the lazy dog\n" * 200)
    corpus = f"text:{texts}/*.txt"
    monkeypatch.chdir(tmp_path)

    def request(text: str = CONFIG) -> prepare.Request:
        config = tmp_path / "dry.yaml"
        config.write_text(text.replace("CORPUS", corpus))
        return prepare.request(None, config, (), Path("out"))

    return request


def planned(request: prepare.Request):
    from sweeps.show.tables import console

    return prepare.plan(request, prepare.facts_for_plan(request, console()))


def register(request: prepare.Request) -> list[str]:
    """Put the plan's runs into the ledger; their keys."""
    entries = [
        Entry(spec=run.spec, dataset=".", predicted_s=run.expected_s, needs=run.needs)
        for run in planned(request).runs
    ]
    with Ledger(request.ledger_folder) as ledger:
        ledger.register(entries)
    return [entry.key for entry in entries]


def test_keys_places_and_what_is_skipped(request_for, capsys):
    request = request_for()
    keys = register(request)
    with Ledger(request.ledger_folder) as ledger:
        ledger.enlist()
        ledger.end(ledger.claim(keys[0]), State.FINISHED, sentence="")
        ledger.end(ledger.claim(keys[1]), State.DIVERGED, sentence="")
        ledger.cancel([keys[2]])
    show_plan(request)
    text = capsys.readouterr().out
    assert all(key[:8] in text for key in keys)
    assert "8 runs, 3 done, 5 to do" in text
    assert "skipped: 1 finished\n" in text
    assert "skipped: 1 diverged (`scaling retry KEY` trains one again)" in text
    assert "skipped: 1 cancelled (`scaling resume` takes them up)" in text
    assert "each run in out/dry/FAMILY/runs/KEY, laws and figures in out/dry/FAMILY" in text


def test_runs_of_a_changed_config_are_told_with_what_changed(request_for, capsys):
    register(request_for())
    show_plan(request_for(CONFIG.replace("base: 3e-3", "base: 2e-3")))
    text = " ".join(capsys.readouterr().out.split())
    assert "8 runs count as new: optimizer.learning_rate 0.003 -> 0.002" in text
    show_plan(request_for())
    assert "count as new" not in capsys.readouterr().out


def test_a_schedule_on_a_cluster(request_for, capsys):
    show_plan(request_for(), cluster="2xCPU:2")
    text = capsys.readouterr().out
    assert "8 runs, 0 done, 8 to do" in text
    assert "4 at a time" in text
    assert "2 nodes of 2 CPU\n8 runs, 4 at once" in text
    assert "--page draws which run goes where and when (out/dry/schedule.html)" in text
    assert not Path("out/dry").exists(), "a plan leaves nothing behind"


def test_how_far_a_sweep_gets_within_its_caps_counts_what_it_has_spent(request_for, capsys):
    request = request_for()
    keys = register(request)
    with Ledger(request.ledger_folder) as ledger:
        ledger.enlist()
        for key in keys[:2]:
            ledger.end(ledger.claim(key), State.FINISHED, sentence="")
    plan = planned(request)
    costs = {run.key: plan.entry(run, dataset=".").flops for run in plan.runs}
    one_more = sum(costs[key] for key in keys[:2]) + 1.01 * max(costs[key] for key in keys[2:])
    show_plan(request, cluster="2xCPU:2", caps=Caps(flops=one_more), order="longest")
    assert "FLOPs: 1 finished, 5 not started" in capsys.readouterr().out
    show_plan(request, cluster="2xCPU:2", caps=Caps(flops=sum(costs.values())))
    assert "not started" not in capsys.readouterr().out
    show_plan(request, cluster="2xCPU:2", caps=Caps(hours=1e-9), page=True)
    assert (
        "within the cap of 1e-09 hours: 0 finished, 4 stopped with a checkpoint, 2 not"
        in capsys.readouterr().out
    )
    assert "within the cap of 1e-09 hours" in Path("out/dry/schedule.html").read_text()
    show_plan(request, cluster="2xCPU:2", caps=Caps(flops=one_more, hours=1e-9), order="longest")
    text = " ".join(capsys.readouterr().out.split())
    assert "FLOPs and the cap of 1e-09 hours: 0 finished, 1 stopped with a checkpoint, 5 not started" in text


def test_gpu_hours_of_earlier_attempts_count_towards_the_cap(request_for, capsys):
    request = request_for(CONFIG + "resources: {cpus: 4, gpus: 1}\n")
    now = [0.0]
    entries = [
        Entry(spec=run.spec, dataset=".", predicted_s=run.expected_s, needs=run.needs)
        for run in planned(request).runs
    ]
    with Ledger(request.ledger_folder, now=lambda: now[0]) as ledger:
        ledger.enlist()
        ledger.register(entries)
        claim = ledger.claim(entries[0].key)
        now[0] = 7200.0
        ledger.end(claim, State.PREEMPTED, sentence="")
    show_plan(request, cluster="1xH100:2", caps=Caps(gpu_hours=2.0))
    assert "within the cap of 2 GPU-hours: 0 finished, 8 not started" in capsys.readouterr().out
    show_plan(request, cluster="1xH100:2", caps=Caps(gpu_hours=1.0), page=True)
    assert "no run starts, so there is no schedule to draw" in capsys.readouterr().out
    assert not Path("out/dry/schedule.html").exists()
    show_plan(request, cluster="1xH100:2", caps=Caps(gpu_hours=1000.0))
    assert "within the cap" not in capsys.readouterr().out


PUBLISHED = DataFacts(corpus="hf:x", tokenizer="hf:y", fingerprint="", num_token_ids=32000)


def bought(config: str, families=(), **caps: float) -> list[str]:
    """What a cap buys of a sweep that ships with the package, on four nodes of eight H100."""
    request = prepare.request(config, None, families, Path("out"))
    plan = prepare.plan(request, PUBLISHED, kind="H100")
    schedule = simulated(plan, parse_cluster("8xH100:4", cpus_per_gpu=4), Caps(**caps))
    assert schedule.gpu_hours <= caps["gpu_hours"]
    assert not schedule.stopped
    finished = {stay.entry.key for stay in schedule.stays}
    return [line for line, _ in bought_lines(plan, finished)]


def test_2000_gpu_hours_of_the_published_design_buy_laws_of_all_its_families():
    lines = bought("sahoo2026", gpu_hours=2000)
    assert [line.split(":")[0] for line in lines] == ["ar", "masked", "uniform", "esoteric"]
    for line in lines:
        assert "the cap buys all of 6.0e18, 1.0e19 and 3.0e19 FLOPs" in line
        assert line.endswith("enough for the IsoFLOP and surface laws")


def test_a_cap_that_buys_too_little_says_by_the_rules_of_a_fit_what_is_missing():
    (two,) = bought("sahoo2026", ("ar",), gpu_hours=97)
    assert "all of 6.0e18 FLOPs and 6 of 6" not in two
    assert "enough for the IsoFLOP and surface laws, which 2 budgets leave unchecked" in two
    (one,) = bought("sahoo2026", ("ar",), gpu_hours=30)
    assert one.startswith(
        "ar: the cap buys 5 of 7 runs at 6.0e18; no law (IsoFLOP: all 5 runs spend one budget"
    )
    assert "give at least 6 finished runs" in one
    (none,) = bought("sahoo2026", ("ar",), gpu_hours=1)
    assert none == "ar: the cap buys no run, so there is no law"


def test_what_a_cap_buys_counts_what_is_finished(request_for, capsys):
    request = request_for(CONFIG + "resources: {cpus: 4, gpus: 1}\n")
    keys = register(request)
    with Ledger(request.ledger_folder) as ledger:
        ledger.enlist()
        for key in keys[:5]:
            ledger.end(ledger.claim(key), State.FINISHED, sentence="")
    show_plan(request, cluster="1xH100", caps=Caps(gpu_hours=1e-9))
    text = capsys.readouterr().out
    assert (
        "uniform: the cap buys all of 1.0e8 FLOPs and 1 of 4 runs at 2.0e8; no law (IsoFLOP: 1 of 2" in text
    )
    show_plan(request, cluster="1xH100", caps=Caps(gpu_hours=1000))
    assert "uniform: the cap buys all of 1.0e8 and 2.0e8 FLOPs; enough" in capsys.readouterr().out
    show_plan(request, cluster="1xH100")
    assert "the cap buys" not in capsys.readouterr().out


def test_the_page_is_written_when_asked_for(request_for, capsys):
    show_plan(request_for(), cluster="2xCPU:2", page=True)
    assert "wrote out/dry/schedule.html" in capsys.readouterr().out
    page = Path("out/dry/schedule.html").read_text()
    assert "2 nodes of 2 CPU" in page
    assert "http://" not in page.split("<script")[0]


def test_a_run_takes_as_long_as_its_kind_of_gpu_does(request_for):
    plan = planned(request_for(CONFIG + "resources: {cpus: 4, gpus: 1}\n"))
    nodes = parse_cluster("1xA100,1xH200", cpus_per_gpu=4)
    schedule = simulated(plan, nodes)
    times = {kind: plan.seconds_on(kind) for kind in ("A100", "H200")}
    assert {stay.node for stay in schedule.stays} == {"A100-1", "H200-1"}
    for stay in schedule.stays:
        kind = stay.node.split("-")[0]
        assert stay.end_s - stay.start_s == pytest.approx(times[kind][stay.entry.key])
    table = schedule_table(schedule)
    assert list(table["slot"].unique()) == [1]
    assert sorted(table["key"]) == sorted(run.key for run in plan.runs)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gpu_price": 2.0}, "--gpu-price is about a cluster, and --cluster is not given"),
        ({"order": "cheapest"}, "--order is about a cluster, and --cluster is not given"),
        ({"page": True}, "--page is about a cluster, and --cluster is not given"),
        ({"caps": Caps(hours=1.0)}, "a cap is about a cluster, and --cluster is not given"),
        ({"cluster": "8xH100:4"}, "names no CPUs, and the runs of dry.yaml use no GPU"),
        ({"cluster": "8x"}, "'8x' cannot be read"),
    ],
)
def test_wrong_options_end_in_a_sentence_before_anything_is_done(request_for, options, says):
    with pytest.raises(UserError, match=says):
        show_plan(request_for(), **options)
    assert not Path("out").exists()


def test_a_plan_without_data_has_no_news(request_for):
    request = request_for()
    facts = DataFacts(corpus="hf:x", tokenizer="bytes", fingerprint="", num_token_ids=256)
    assert prepare.plan(request, facts).news == ()


def schedule_of(cluster: str, *runs: tuple[float, float], gpu_memory: float = 1e9):
    """Runs of (seconds, budget)."""
    entries = [
        replace(
            entry(f"r{i}", seconds, needs=Needs(cpus=1, gpus=1, gpu_memory_bytes=gpu_memory)),
            spec=replace(entry("x").spec, budget=budget),
        )
        for i, (seconds, budget) in enumerate(runs)
    ]
    return simulate(entries, parse_cluster(cluster), lambda e, node: e.predicted_s)


def text_of(schedule, gpu_price: float | None = None) -> str:
    return "\n".join(line for line, _ in summary_lines(schedule, gpu_price))


def test_figures_and_cost():
    text = text_of(schedule_of("4xH100", (7200, 2e9), (3600, 1e9)), 2.5)
    assert "1 node of 4 H100" in text
    assert "2 runs, 4 at once: 2.0 h from start to end, 0.0% above the least possible (2.0 h)" in text
    assert "slots in use 38% of the time" in text
    assert "3.0 GPU-hours in use, 8.0 while all GPUs are held; at 2.5 per GPU-hour 8 and 20" in text
    assert "per GPU-hour" not in text_of(schedule_of("4xH100", (7200, 2e9)))


def test_runs_that_fit_nowhere_are_counted_with_the_reason():
    text = text_of(schedule_of("4xH100", (1, 2e9), (2, 1e9), gpu_memory=90e9))
    assert "2 runs: no node can hold this run" in text


def test_a_cap_that_is_reached_is_told_with_what_becomes_of_the_runs():
    entries = [entry(f"r{i}", 3600.0) for i in range(5)]
    schedule = simulate(entries, parse_cluster("2xCPU"), lambda e, node: 3600.0, caps=Caps(hours=1.5))
    text = text_of(schedule)
    assert "within the cap of 1.5 hours: 2 finished, 2 stopped with a checkpoint, 1 not started" in text
    assert "4 runs, 2 at once: 1.5 h from start to end; slots in use 100% of the time" in text
    nothing = simulate(entries, parse_cluster("2xCPU"), lambda e, node: 3600.0, caps=Caps(hours=0.0))
    assert "within the cap of 0 hours: 0 finished, 5 not started" in text_of(nothing)
