#!/bin/sh
# Makes .venv hold what one part of the work needs: scripts/setup.sh run | tune | notebook | docs | dev
#
# Done before, it answers at once: .venv/ready-PART, written last, names this folder and a checksum of what was
# asked for. An interrupted set-up therefore leaves no such file, and the next call carries on. Two calls at once
# take turns. PYTHON=... chooses the interpreter of a new environment.
set -eu
part=${1:?which part: run, tune, notebook, docs or dev}
case $part in
  run) extras= what="the run-time packages" ;;
  tune) extras="[tune]" what="what tuning needs" ;;
  notebook) extras="[notebook]" what="what the notebooks need" ;;
  docs) extras="[docs]" what="what the documentation site needs" ;;
  dev) extras="[dev]" what="what the tests and linters need" ;;
  *) echo "setup: there is no part '$part'; it is run, tune, notebook, docs or dev" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."

# What is installed depends on the versions and on pyproject.toml as far as the tool settings.
wanted="$(sed '/^\[tool\.ruff\]/,$d' pyproject.toml | cat constraints.txt - | cksum) $PWD"
is_ready() { [ -x .venv/bin/python ] && [ "$(cat ".venv/ready-$part" 2>/dev/null)" = "$wanted" ]; }
if is_ready; then exit 0; fi

find_python() {
  for candidate in ${PYTHON:-python3.11 python3 python3.12 python3.13 python}; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  echo "setup: no Python 3.11 or newer with its venv module here (looked for: ${PYTHON:-python3.11, python3, python3.12, python3.13, python});" \
    "install one, or name it: make setup PYTHON=/path/to/python3.11" >&2
  exit 1
}
python=$(find_python)

# An advisory lock on a file that is always there; the shell holds it through descriptor 9 until it ends.
exec 9<pyproject.toml
"$python" - <<'EOF'
import fcntl
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("setup: another set-up of this folder is at work; waiting for it", flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)
EOF
if is_ready; then exit 0; fi

start=$(date +%s)
echo "setup: installing $what into .venv, at the versions of constraints.txt; the first time takes a minute or two"
trap 'code=$?; [ $code -eq 0 ] || echo "setup: not finished (the lines above say why); the same command carries on from here" >&2' EXIT
trap 'exit 130' INT TERM

last_folder=$(sed 's/^[0-9]* [0-9]* //' .venv/ready-run 2>/dev/null || true)
if [ "${last_folder:-$PWD}" != "$PWD" ] || ! .venv/bin/python -c '' 2>/dev/null; then
  "$python" -m venv --clear .venv 9<&-
fi
rm -f .venv/ready-*                       # from here until the end, nothing is known to be right

pip() { .venv/bin/python -m pip --disable-pip-version-check --no-input "$@" 9<&-; }
# setuptools first and no build isolation: the build then uses the tested version and fetches nothing twice.
pip install -qq -c constraints.txt setuptools
pip install -qq -c constraints.txt --no-compile --no-build-isolation -e ".$extras"

# Importing once proves that the packages work and leaves the compiled files that later starts need. pip would
# compile all 18,000 files, which takes longer than the rest; PYTHONDONTWRITEBYTECODE would leave none.
warm_up() { env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -W ignore -c "import $1" 9<&-; }
warm_up "numpy, pandas, scipy.optimize, scipy.stats, torch" &
warm_up "ray, mlflow.store.tracking.sqlalchemy_store, plotly.graph_objects, matplotlib.pyplot, pyarrow.parquet, typer, rich"
wait $!

echo "$wanted" >".venv/ready-run"
echo "$wanted" >".venv/ready-$part"
if [ "$part" = dev ]; then echo "$wanted" | tee .venv/ready-notebook >.venv/ready-tune; fi
echo "setup: .venv is ready ($(($(date +%s) - start)) s)"
