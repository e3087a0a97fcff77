"""deploy/ and docs/clusters/ fit this checkout: versions, options, ports; and no secret is inside."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
import warnings
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PAGES = sorted((ROOT / "docs" / "clusters").glob("*.md"))
FILES = sorted(path for path in DEPLOY.iterdir() if path.name != ".env")
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if "==" in line and not line.startswith("#")
)
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
CLAIM, RAYJOB = yaml.safe_load_all((DEPLOY / "rayjob.yaml").read_text())
CLOUD = yaml.safe_load((DEPLOY / "cloud.yaml").read_text())


def text(path: Path) -> str:
    """With lines that go on joined; comments stay, they hold commands too."""
    joined = re.sub(r" *(\\\n\s*|\n +(?=--))", " ", path.read_text())
    return re.sub(r"\$\{[^}]*\}", "VALUE", joined)


# -- versions -----------------------------------------------------------------------------------


def test_versions_are_those_of_the_constraints():
    image = re.search(r"^FROM rayproject/ray:(\S+)-py(\d+)-gpu$", text(DEPLOY / "Dockerfile"), flags=re.M)
    assert image
    assert image[1] == RAYJOB["spec"]["rayClusterSpec"]["rayVersion"] == PINS["ray"]
    python = re.search(r'python_version = "3\.(\d+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert image[2] == f"3{python}"
    mlflow = COMPOSE["services"]["mlflow"]
    assert mlflow["image"].endswith(f":{PINS['mlflow']}")
    built = mlflow["build"]["dockerfile_inline"]
    assert f"FROM python:3.{python}-slim" in built
    assert f"mlflow=={PINS['mlflow']} " in built
    assert f"psycopg[binary]=={PINS['psycopg']}" in built


def test_the_image_holds_all_that_the_package_is_built_from():
    copied = " ".join(re.findall(r"^COPY (.*) \S+$", text(DEPLOY / "Dockerfile"), flags=re.M)).split()
    assert {"pyproject.toml", "constraints.txt", "README.md", "LICENSE"} <= set(copied)
    assert {"scaling", "sweeps", "analysis"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)


# -- commands -----------------------------------------------------------------------------------


def commands(program: str) -> list[tuple[Path, list[str]]]:
    """Every use of `program` in files and pages: what follows it, to the end of the command."""
    uses = []
    for path in [*FILES, *PAGES]:
        before = r"(?:^ {4,}|^# +|[`'(/&;] *|: |- )" if path.suffix == ".md" else r"(?:^|[\s`'(/])"
        for line in re.findall(rf"{before}{program} ([a-z][^\n`|&#]*)", text(path), flags=re.M):
            uses.append((path, re.sub(r"['\"(){}]|\$\S+", " ", line).split()))
    return uses


def options(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}


def known_options(command) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def test_scaling_commands_are_there_with_their_options():
    import typer

    from sweeps.cli import app

    available = typer.main.get_command(app).commands
    used = [(path, words) for path, words in commands("scaling") if words[0] in available]
    assert {words[0] for _, words in used} >= {"sweep", "plan", "status"}
    for path, words in used:
        assert options(words) <= known_options(available[words[0]]), (path.name, words)


def test_make_is_asked_for_what_the_makefile_has():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.M))
    variables = set(re.findall(r"^([A-Z]+) +\?=", makefile, flags=re.M))
    used = commands("make")
    assert used
    for path, words in used:
        assert words[0] in targets, (path.name, words)
        assert set(re.findall(r"\b([A-Z]+)=", " ".join(words))) <= variables, (path.name, words)


def test_ray_and_mlflow_know_the_options_they_are_given():
    from ray.scripts.scripts import cli

    with warnings.catch_warnings(action="ignore"):  # of the packages that MLflow's command line loads
        from mlflow.cli import server

    used = [(path, words) for path, words in commands("ray") if words[0] in cli.commands]
    assert {words[0] for _, words in used} >= {"start", "symmetric-run", "up", "down", "get-auth-token"}
    for path, words in used:
        inner = [words.index(word) for word in ("--", "scaling") if word in words]
        own = words[: min(inner, default=None)]
        available = known_options(cli.commands[words[0]])
        if words[0] == "symmetric-run":
            available |= known_options(cli.commands["start"])
        assert options(own) <= available, (path.name, words)
    servers = [words for _, words in commands("mlflow") if words[0] == "server"]
    servers.append(COMPOSE["services"]["mlflow"]["command"][1:])
    for words in servers:
        assert options(words) <= known_options(server), words


def test_the_environment_file_of_the_docs_is_one(tmp_path, monkeypatch):
    from sweeps.pools.ray.session import read_environment

    page = (ROOT / "docs" / "clusters" / "README.md").read_text()
    file = tmp_path / "environment.yaml"
    file.write_text(re.search(r"```yaml\n(.*?)```", page, flags=re.S)[1])
    monkeypatch.setenv("SCALING_RUNTIME_ENV", str(file))
    assert read_environment()["env_vars"]


# -- what is open, and what is secret -----------------------------------------------------------


def test_ports_that_people_use_are_on_the_loopback():
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)
    heads = [words for _, words in commands("ray") if words[0] == "start" and "--head" in words]
    with_port = [words for words in heads if any(word.startswith("--port") for word in words)]
    assert len(with_port) >= 3
    assert all("--dashboard-host=127.0.0.1" in words for words in with_port)


def test_telemetry_is_off():
    environment = COMPOSE["services"]["mlflow"]["environment"]
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    for name in ("slurm.sh", "rayjob.yaml", "cloud.yaml", "Dockerfile"):
        assert re.search(r"RAY_USAGE_STATS_ENABLED(=|, value: \"?)0", text(DEPLOY / name)), name


def test_tokens_are_on():
    assert "RAY_AUTH_MODE=token" in text(DEPLOY / "slurm.sh")
    assert "--env RAY_AUTH_MODE=token" in CLOUD["docker"]["run_options"]
    assert RAYJOB["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("path", [*FILES, *PAGES], ids=lambda path: path.name)
def test_no_secret_is_inside(path):
    content = path.read_text()
    assert not re.search(r"\b[0-9a-f]{24,}\b|\bAKIA[0-9A-Z]{12,}\b|BEGIN [A-Z ]*PRIVATE", content)
    for name, value in re.findall(r"\b(\w*(?:PASSWORD|SECRET\w*|TOKEN))[:=] *([^\s\"'&]+)", content):
        assert re.match(r"\$|\.\.\.", value), f"{name} is written out"


def test_the_file_of_secrets_is_ignored():
    ignored = subprocess.run(["git", "check-ignore", "-q", "deploy/.env"], cwd=ROOT, check=False)
    assert ignored.returncode == 0


# -- each file by its own rules -----------------------------------------------------------------

SERVICE = {
    "image", "build", "restart", "environment", "volumes", "healthcheck", "command", "ports", "depends_on",
}  # fmt: skip


def test_compose_waits_for_health_and_loses_nothing_on_restart():
    services = COMPOSE["services"]
    assert set(COMPOSE) == {"name", "services", "volumes"}
    for name, service in services.items():
        assert set(service) <= SERVICE, name
        health = service["healthcheck"]
        assert set(health) <= {"test", "interval", "timeout", "retries", "start_period"}
        assert health["test"][0] in ("CMD", "CMD-SHELL")
        assert service["restart"] == "unless-stopped"
        for mount in service.get("volumes", []):
            assert mount.partition(":")[0] in COMPOSE["volumes"]
    waits = services["mlflow"]["depends_on"]
    assert {name: how["condition"] for name, how in waits.items()} == {
        "postgres": "service_healthy",
        "s3": "service_healthy",
    }
    variables = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    page = (ROOT / "docs" / "clusters" / "mlflow.md").read_text()
    assert variables == set(re.findall(r"^(\w+)=", page, flags=re.M))


def test_the_rayjob_has_the_fields_of_its_kind_and_a_fixed_size():
    assert (CLAIM["kind"], RAYJOB["kind"]) == ("PersistentVolumeClaim", "RayJob")
    assert RAYJOB["apiVersion"] == "ray.io/v1"
    spec = RAYJOB["spec"]
    fields = {"entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"}
    assert set(spec) == fields | {"rayClusterSpec"}
    cluster = spec["rayClusterSpec"]
    assert set(cluster) == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    head, groups = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert set(head) == {"rayStartParams", "template"}
    for group in groups:
        assert set(group) == set(head) | {"groupName", "replicas", "minReplicas", "maxReplicas"}
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    pods = [part["template"]["spec"] for part in (head, *groups)]
    assert len({container["image"] for pod in pods for container in pod["containers"]}) == 1
    assert all(isinstance(v, str) for part in (head, *groups) for v in part["rayStartParams"].values())


def test_the_rayjob_keeps_the_ledger_on_its_volume():
    head = RAYJOB["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert head["volumes"][0]["persistentVolumeClaim"]["claimName"] == CLAIM["metadata"]["name"]
    command = shlex.split(RAYJOB["spec"]["entrypoint"])
    mounted = {mount["mountPath"] for mount in head["containers"][0]["volumeMounts"]}
    assert command[command.index("--out") + 1] in mounted
    assert "--storage" in command  # for the workers do not mount it


def test_ray_accepts_the_cloud_file():
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(CLOUD))
    for name, kind in CLOUD["available_node_types"].items():
        if name != CLOUD["head_node_type"]:
            assert kind["min_workers"] == kind["max_workers"] == CLOUD["max_workers"]


# -- the Slurm script, on a Slurm that only pretends --------------------------------------------

STUBS = {
    "scontrol": "echo n1; echo n2",
    "hostname": "echo 10.0.0.1",
    # options come first; the command after them runs once, as on the first of the nodes
    "srun": """
while [ $# -gt 0 ]; do case $1 in -w|-x) shift 2;; --*) shift;; *) break;; esac; done
exec "$@" """,
    "ray": """
echo "ray $*" >> said
case $1 in
  status) grep '^ray start' said | sed 's/.*/ 1 node_x/';;
  start) exec sleep 60;;
  symmetric-run) while [ "$1" != -- ]; do shift; done; shift; exec "$@";;
esac""",
    "scaling": """
echo "scaling $*" >> said; echo "token ${#RAY_AUTH_TOKEN} $RAY_AUTH_MODE" >> said
trap 'echo saved >> said; exit 130' TERM
[ -e wait ] || exit 3
touch begun; while :; do sleep 0.1; done""",
}
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture
def slurm(tmp_path):
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, body in STUBS.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (programs / name).chmod(0o755)

    def begin(launch: str, *arguments: str) -> subprocess.Popen[bytes]:
        variables = {
            "SLURM_SUBMIT_DIR": str(tmp_path),
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_ON_NODE": "4",
            "SLURM_JOB_END_TIME": str(int(time.time()) + 4200),
            "LAUNCH": launch,
        }
        return subprocess.Popen(
            ["bash", str(DEPLOY / "slurm.sh"), *arguments],
            env={**os.environ, **variables}, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    return begin


@needs_bash
@pytest.mark.parametrize("launch", ["symmetric", "start"])
def test_a_slurm_job_gives_the_sweep_its_cluster_and_an_end(slurm, tmp_path, launch):
    job = slurm(launch, "--sweep", "smoke", "--family", "ar")
    assert job.wait(60) == 3  # the sweep's own code
    lines = (tmp_path / "said").read_text().splitlines()
    sweep = next(line for line in lines if line.startswith("scaling")).split()
    assert sweep[:5] == ["scaling", "sweep", "--address", "10.0.0.1:6379", "--max-hours"]
    assert float(sweep[5]) == pytest.approx(1.0, abs=0.02)  # ten minutes less than there are
    assert sweep[6:] == ["--sweep", "smoke", "--family", "ar"]
    assert "token 64 token" in lines
    starts = [line for line in lines if line.startswith(("ray start", "ray symmetric-run"))]
    assert len(starts) == (2 if launch == "start" else 1)
    assert all("--num-cpus 4" in line and "--disable-usage-stats" in line for line in starts)


@needs_bash
def test_a_signal_to_the_batch_shell_reaches_the_sweep(slurm, tmp_path):
    (tmp_path / "wait").touch()
    job = slurm("start", "--sweep", "smoke")
    end = time.monotonic() + 120
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait(30) == 130
    assert "saved" in (tmp_path / "said").read_text()


# -- the pages ----------------------------------------------------------------------------------


def test_every_page_is_in_the_index_and_links_lead_somewhere():
    index = (ROOT / "docs" / "clusters" / "README.md").read_text()
    for page in PAGES:
        assert page.name == "README.md" or f"]({page.name})" in index
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), f"{page.name} links to {link}"
        for name in re.findall(r"\bdeploy/([\w.]+\w)", page.read_text()):
            assert name == ".env" or (DEPLOY / name).exists(), f"{page.name} names deploy/{name}"
