#!/usr/bin/env bash
# Regenerate every table and figure into results/<profile>/, or run the tests. Sets itself up: needs only Python 3.11+.
set -euo pipefail
cd "$(dirname "$0")"

usage() {
  cat <<'EOF'
usage: ./run_all.sh [--profile smoke|quick|paper] [--only 01,02] [--device auto|cpu|cuda] [--refresh] [--read]
       ./run_all.sh test        run the tests, and the notebooks under nbval
       ./run_all.sh setup       only create .venv and install
       ./run_all.sh docs        build the site in build/site: documents, executed notebooks, API, player

  --profile  smoke (default): minutes on a CPU; quick: about an hour on a CPU; paper: the paper's own sizes and
             steps, needs a CUDA GPU
  --only     numbers of the notebooks to execute
  --device   auto takes a CUDA GPU where there is one
  --refresh  repeat runs that have a record
  --read     at the paper profile, show the records that there are and make none: minutes on a CPU

Finished runs are kept in results/<profile>/runs and are not repeated, unless settings or data have changed.
EOF
}

fail() { echo "run_all.sh: $*" >&2; exit 2; }

mode=run profile=smoke only="" device=auto refresh="" make=""
while [ $# -gt 0 ]; do
  case $1 in
    -h|--help) usage; exit 0 ;;
    test|setup|docs) mode=$1 ;;
    --refresh) refresh=--refresh ;;
    --read) make=--no-make ;;
    --profile|--only|--device)
      [ $# -ge 2 ] || fail "$1 needs a value; see --help"
      declare "${1#--}=$2"; shift ;;
    *) fail "unknown argument $1; see --help" ;;
  esac
  shift
done
case $profile in smoke|quick|paper) ;; *) fail "--profile must be smoke, quick or paper, got $profile" ;; esac
case $device in auto|cpu|cuda|cuda:[0-9]*) ;; *) fail "--device must be auto, cpu or cuda, got $device" ;; esac

# Environment: .venv, installed from the lock file alone (hashes checked), again whenever the lock file or pyproject.toml changes.
python=""
for candidate in python3 python3.13 python3.12 python3.11; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$candidate; break
  fi
done
[ -n "$python" ] || [ -x .venv/bin/python ] || fail "needs Python 3.11 or newer; found $(python3 --version 2>&1 || echo none)"
[ -x .venv/bin/python ] || "$python" -m venv .venv || fail "cannot create .venv: install Python's venv module"
stamp=$(cat requirements.lock pyproject.toml | cksum)
if [ "$(cat .venv/installed 2>/dev/null)" != "$stamp" ]; then
  echo "installing into .venv (once, a few minutes) ..."
  install() { .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "$@"; }
  part() {  # of the lock file, which has a marker that pip skips
    sed -n "/extra == \"$1\"/,/[^\\]$/p" requirements.lock | sed "s/extra == \"$1\"/python_version > \"3\"/" > ".venv/$1"
    install --require-hashes -r ".venv/$1"
  }
  part cpu-build 2>/dev/null || true  # most machines find none
  install --require-hashes -r requirements.lock
  if .venv/bin/python -m pip show torch | grep '^Requires:.*nvidia' >/dev/null; then part cuda-build; fi
  install --no-build-isolation -e .
  .venv/bin/python -m pip check --disable-pip-version-check || fail "requirements.lock lacks what pip check names"
  echo "$stamp" > .venv/installed
fi
export PATH="$PWD/.venv/bin:$PATH" PYTHONWARNINGS="${PYTHONWARNINGS:-ignore::DeprecationWarning}"

case $mode in
  setup) echo "ready: source .venv/bin/activate" ;;
  docs)
    python .ci/stage_site.py
    NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict --quiet
    echo "wrote build/site/index.html"
    ;;
  test)
    ruff format --check .
    ruff check .
    python -m stgvlib.repro documents --check
    side_by_side=(-n logical --maxprocesses 4 --dist loadfile)  # auto: physical cores, which may be one
    python -m pytest -q "${side_by_side[@]}" --no-loadscope-reorder
    threads=$(($(getconf _NPROCESSORS_ONLN) / 4))  # of each notebook, so that four share the cores
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))} \
      STGV_PROFILE=smoke python -m pytest -q "${side_by_side[@]}" --nbval-lax --nbval-cell-timeout=900 notebooks
    ;;
  run) exec python -m stgvlib.repro notebooks --profile "$profile" --device "$device" --only "$only" $refresh $make ;;
esac
