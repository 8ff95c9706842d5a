#!/usr/bin/env bash
# Sets up what is missing, then runs every check and every test. The last line is pytest's own.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: ./run_tests.sh [--fast | --long] [PYTEST ARGUMENT...]

  --fast   leave out the tests marked slow, docker or long (about 5 minutes)
  --long   run everything, also the tests marked long
  (neither: everything but long)

Stages: set-up, ruff, mypy, shellcheck, the image of the docker tests, pytest. The checks all run before one of them fails the
whole. Tests that fail are run once more, alone: one that passes only then is unsteady, and worth a look.
TEXT
}

selection='not long'
while (($#)); do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --fast) selection='not slow and not docker and not long' ;;
        --long) selection='' ;;
        *) break ;;
    esac
    shift
done

# shellcheck source=scripts/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/scripts/setup.sh"
set_up train test

# Arguments such as tests/unit are meant relative to the repository.
cd -- "$ROOT"

failed=()

# stage NAME COMMAND...: run it, say how long it took, remember a failure.
stage() {
    local name=$1 started=$SECONDS
    shift
    say "$name"
    if "$@"; then note "$name passed ($((SECONDS - started)) s)"; else
        failed+=("$name")
        note "$name FAILED ($((SECONDS - started)) s)"
    fi
}

# Every shell script of the project: tracked or new, by name or by first line. Without git: the same by find.
# Templates are no scripts yet: what is rendered from them is checked by tests/unit/submit.
shell_scripts() {
    { git ls-files --cached --others --exclude-standard 2>/dev/null || find . -path ./.venv -prune -o -type f -print; } |
        while IFS= read -r file; do
            [[ -f $file && $file != *.j2 ]] || continue
            if [[ $file == *.sh ]] || head -c 64 -- "$file" | head -n 1 | grep -aqE '^#!.*[/ ](ba|da)?sh( |$)'; then
                printf '%s\0' "$file"
            fi
        done
}

check_shell() { shell_scripts | xargs -0 shellcheck --external-sources; }

stage ruff ruff check .
stage mypy mypy
stage shellcheck check_shell
if ((${#failed[@]})); then
    printf 'error: failed before the tests: %s\n' "${failed[*]}" >&2
    exit 1
fi

# wants_docker: the tests that were asked for need the image. Where no engine can be had they are skipped, and say so.
wants_docker() {
    [[ $selection != *'not docker'* ]] || return 1
    [[ $# -eq 0 || $* == *docker* ]]
}

engine_is_ours=0
if wants_docker "$@"; then
    timeout 20 docker info >/dev/null 2>&1 || engine_is_ours=1
    if bash docker-slurm/engine.sh start; then
        stage "docker image" python -m hpctrain.devcluster.docker_image
    else
        engine_is_ours=0
        note "the docker tests will be skipped"
    fi
fi
if ((${#failed[@]})); then
    printf 'error: failed before the tests: %s\n' "${failed[*]}" >&2
    exit 1
fi

say "pytest"
code=0
python -m pytest ${selection:+-m "$selection"} "$@" || code=$?
# Real daemons on a busy machine now and then miss a moment. What failed is run once more, alone, and said to be unsteady if
# it passes then; exit code 1 is "some tests failed", anything else is no matter of luck.
if ((code == 1)); then
    say "pytest, only what failed"
    code=0
    python -m pytest ${selection:+-m "$selection"} --last-failed --last-failed-no-failures none "$@" || code=$?
fi
((engine_is_ours == 0)) || bash docker-slurm/engine.sh stop
(exit "$code")
