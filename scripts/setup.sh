# shellcheck shell=bash
# What quickstart.sh and run_tests.sh share: find or install what is missing, and make the virtual environment.
#
#   source scripts/setup.sh
#   set_up train            # or: set_up train test
#
# Afterwards VENV is the environment's directory and $VENV/bin is first in PATH.
#
# Variables a user may set:
#   HPCTRAIN_PYTHON           the interpreter to use (default: the first python >= 3.10 that can make environments)
#   HPCTRAIN_VENV             where the environment is made (default: .venv in the checkout)
#   HPCTRAIN_TORCH_INDEX_URL  package index to take torch from, such as the CPU-only one that PyTorch's installation
#                             page names; without it see choose_torch below
#
# Nothing here runs when it is sourced, so that tests can call each function alone.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${HPCTRAIN_VENV:-$ROOT/.venv}
SETUP_LOG=$VENV.log
SYSTEM_PYTHON=${SYSTEM_PYTHON:-/usr/bin/python3}
POLICY_FILE=${POLICY_FILE:-/usr/sbin/policy-rc.d}
POLICY_MARK='written by hpctrain setup: removed when it ends'
OLDEST_TORCH=2.6

say() { printf '==> %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }

# die MESSAGE [HINT...]: one clear message, no traceback.
die() {
    printf 'error: %s\n' "$1" >&2
    shift
    local hint
    for hint in "$@"; do printf 'hint:  %s\n' "$hint" >&2; done
    exit 1
}

# Daemons live in sbin directories, which users' PATHs lack.
has() { PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin command -v "$1" >/dev/null 2>&1; }

# ---------------------------------------------------------------- packages of the distribution

# as_root COMMAND...: run as root, through sudo where we are not.
as_root() {
    if ((EUID == 0)); then
        "$@"
        return
    fi
    # sudo drops the environment; a site's proxy must survive it.
    local name keep=()
    for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
        [[ -z ${!name:-} ]] || keep+=("$name=${!name}")
    done
    if [[ -t 0 ]]; then sudo env "${keep[@]}" "$@"; else sudo -n env "${keep[@]}" "$@"; fi
}

can_be_root() { ((EUID == 0)) || has sudo; }

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends \
        -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold "$@"
}

apt_knows() { LC_ALL=C apt-cache policy "$1" 2>/dev/null | grep -q 'Candidate: [^(]'; }

# The packages' own daemons must not start: the private cluster runs its own, as the user.
# A policy of the site (or of a container image) is left alone, one that a killed run left behind is replaced.
hold_services() {
    if [[ -e $POLICY_FILE ]] && ! grep -q "$POLICY_MARK" "$POLICY_FILE"; then return 0; fi
    printf '#!/bin/sh\n# %s\nexit 101\n' "$POLICY_MARK" | as_root tee "$POLICY_FILE" >/dev/null
    as_root chmod 755 "$POLICY_FILE"
}

release_services() {
    if [[ -e $POLICY_FILE ]] && grep -q "$POLICY_MARK" "$POLICY_FILE"; then as_root rm -f "$POLICY_FILE"; fi
}

# install_packages PACKAGE...: through apt, refreshing its lists only when they do not do.
install_packages() {
    local package stale=0
    has apt-get || die "these packages are missing, and there is no apt-get to install them: $*" \
        "install Slurm's daemons and clients, munge and Python >= 3.10 with this system's own tools, then run this again"
    can_be_root || die "these packages are missing, and installing them needs root: $*" \
        "ask an administrator for: apt-get install --no-install-recommends $*" \
        "once they are installed, this script needs no root"
    for package in "$@"; do apt_knows "$package" || stale=1; done
    (
        trap release_services EXIT
        trap 'exit 130' INT TERM
        hold_services
        if ((stale)); then logged "refreshing apt's package lists" as_root apt-get update --quiet; fi
        logged "installing $*" apt_install "$@" 2>/dev/null && exit 0
        # Lists that are merely old name versions which the mirror no longer has.
        logged "refreshing apt's package lists" as_root apt-get update --quiet
        logged "installing $*" apt_install "$@"
    ) || die "apt could not install: $*" "the whole output is in $SETUP_LOG"
}

# package_for PROGRAM and reason_for PROGRAM: the distribution's package, and why we want it.
package_for() {
    case $1 in
        sbatch | srun | squeue | scontrol) echo slurm-client ;;
        munged) echo munge ;;
        sshd) echo openssh-server ;;
        ssh-keygen) echo openssh-client ;;
        *) echo "$1" ;;
    esac
}

reason_for() {
    case $1 in
        slurmctld) echo "Slurm's controller, for the private cluster" ;;
        slurmd) echo "Slurm's node daemon, for the private cluster" ;;
        slurm-client) echo "sbatch, srun, squeue, scontrol" ;;
        munge) echo "authenticates Slurm's messages" ;;
        shellcheck) echo "checks the shell scripts (tests only)" ;;
        openssh-server) echo "a host to go to over SSH (tests only)" ;;
        openssh-client) echo "keys for it (tests only)" ;;
        python3) echo "runs everything" ;;
        python3-venv) echo "makes the virtual environment" ;;
        python3-torch) echo "a CPU build of PyTorch" ;;
        libopenblas0-pthread) echo "fast matrix products for it" ;;
        *) echo "needed" ;;
    esac
}

# need_packages PROGRAM...: say what is missing and why, and install the packages that hold it.
need_packages() {
    local program package missing=() listed=' '
    for program in "$@"; do
        package=$(package_for "$program")
        [[ $listed == *" $package "* ]] || missing+=("$package")
        listed+="$package "
    done
    ((${#missing[@]})) || return 0
    say "Installing from the distribution, because they are missing:"
    for package in "${missing[@]}"; do note "$(printf '%-14s %s' "$package" "$(reason_for "$package")")"; done
    install_packages "${missing[@]}"
}

# ---------------------------------------------------------------- Python

# logged MESSAGE COMMAND...: say it, keep the output in a file, show its end when it fails.
logged() {
    local message=$1 started=$SECONDS
    shift
    note "$message"
    printf '\n### %s: %s\n' "$(date -u +%FT%TZ)" "$*" >>"$SETUP_LOG"
    if "$@" >>"$SETUP_LOG" 2>&1; then
        ((SECONDS - started < 5)) || note "  took $((SECONDS - started)) s"
        return 0
    fi
    printf '    failed: %s\n' "$message" >&2
    tail -n 20 "$SETUP_LOG" | sed 's/^/    | /' >&2
    return 1
}

can_make_environments() {
    "$1" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

# find_python: set PYTHON to the first interpreter that will do; false when there is none.
find_python() {
    local candidate candidates=(python3 "$SYSTEM_PYTHON" python3.13 python3.12 python3.11 python3.14 python3.10)
    [[ -z ${HPCTRAIN_PYTHON:-} ]] || candidates=("$HPCTRAIN_PYTHON")
    for candidate in "${candidates[@]}"; do
        if has "$candidate" && can_make_environments "$candidate"; then
            PYTHON=$candidate
            return 0
        fi
    done
    return 1
}

# environment_key [EXTRA]: changes whenever an environment made before would no longer be the right one.
environment_key() {
    {
        printf '%s\n' "$ROOT" "${HPCTRAIN_TORCH_INDEX_URL:-}" "${HPCTRAIN_PYTHON:-}"
        "$VENV/bin/python" -c 'import sys; print(sys.version)'
        cat "$ROOT/setup.cfg" "$ROOT/pyproject.toml" "$ROOT/constraints.txt" "$ROOT/scripts/setup.sh"
    } 2>/dev/null | sha256sum | cut -d ' ' -f 1
}

stamp() { echo "$VENV/.hpctrain-$1"; }

# ready EXTRA...: the environment holds these extras, made from the files as they are now.
ready() {
    local extra key
    [[ -x $VENV/bin/python ]] || return 1
    key=$(environment_key)
    for extra in "$@"; do
        [[ -r $(stamp "$extra") && $(<"$(stamp "$extra")") == "$key" ]] || return 1
    done
}

# make_venv PYTHON [OPTION...]: a fresh environment with the pip and setuptools of constraints.txt.
make_venv() {
    local python=$1
    shift
    note "virtual environment: $VENV ($("$python" -V))"
    rm -f "$VENV"/.hpctrain-*
    logged "creating it" "$python" -m venv --clear "$@" "$VENV" || die "cannot create $VENV" "the output is in $SETUP_LOG"
    install_python "pip and setuptools" --upgrade pip setuptools
    base_key >"$(stamp base)"
}

# install_python WHAT ARGUMENT...: pip install under the constraints; tried twice, because downloads break.
install_python() {
    local what=$1
    shift
    local command=("$VENV/bin/python" -m pip install --no-input --disable-pip-version-check --constraint "$(constraints)" "$@")
    logged "installing $what" "${command[@]}" 2>/dev/null || logged "installing $what (second try)" "${command[@]}" ||
        die "pip could not install $what" "the whole output is in $SETUP_LOG" \
            "no network? set pip's own PIP_INDEX_URL, PIP_PROXY or PIP_CERT, then run this again"
}

# constraints: the file for pip. Where another torch than the pinned one was chosen, that one is the constraint.
constraints() {
    if [[ -r $VENV/constraints.txt ]]; then echo "$VENV/constraints.txt"; else echo "$ROOT/constraints.txt"; fi
}

# accept_torch: keep the torch that is installed now, whatever the pinned one is, with what it requires to the letter
# (Debian's 2.6 wants one certain sympy).
accept_torch() {
    local version exact
    version=$(torch_version "$VENV/bin/python") || return 1
    mapfile -t exact < <(exact_requirements)
    free_of torch "${exact[@]}" >"$VENV/constraints.txt.new"
    echo "torch==$version" >>"$VENV/constraints.txt.new"
    mv -f "$VENV/constraints.txt.new" "$VENV/constraints.txt"
}

# free_of NAME...: the constraints without the lines of these packages.
free_of() { grep -viE "^($(IFS='|'; echo "$*"))==" "$ROOT/constraints.txt"; }

# exact_requirements: names of the packages of which the installed torch accepts one version only.
exact_requirements() {
    "$VENV/bin/python" - <<'PYTHON'
import importlib.metadata, re
for line in importlib.metadata.requires("torch") or ():
    match = re.match(r"([\w.-]+)\s*\(?==", line)
    if match:
        print(re.sub(r"[-_.]+", "-", match.group(1)).lower())
PYTHON
}

# torch_version PYTHON: the version of the torch it can import; false when there is none that is new enough.
torch_version() {
    "$1" - "$OLDEST_TORCH" 2>/dev/null <<'PYTHON'
import importlib.metadata, importlib.util, re, sys
version = importlib.metadata.version("torch") if importlib.util.find_spec("torch") else "0"
numbers = lambda text: tuple(map(int, re.findall(r"\d+", text)[:2]))
print(version)
sys.exit(numbers(version) < numbers(sys.argv[1]))
PYTHON
}

# torch_build REQUIREMENT: "cpu VERSION" or "accelerator VERSION" of what pip would install; false when there is none.
torch_build() {
    local report=$VENV/torch-report.json
    "$VENV/bin/python" -m pip install --no-input --disable-pip-version-check --quiet --dry-run --no-deps \
        --ignore-installed --report "$report" "$1" >>"$SETUP_LOG" 2>&1 || return 1
    "$VENV/bin/python" "$ROOT/scripts/torch_build.py" "$report"
}

has_nvidia_gpu() { [[ -e /proc/driver/nvidia/version ]]; }

# distribution_torch: the distribution's own python3-torch is new enough and there, or can be installed.
distribution_torch() {
    can_make_environments "$SYSTEM_PYTHON" || return 1
    torch_version "$SYSTEM_PYTHON" >/dev/null && return 0
    local candidate
    can_be_root && has apt-cache || return 1
    candidate=$(LC_ALL=C apt-cache policy python3-torch 2>/dev/null | sed -n 's/^ *Candidate: //p')
    [[ -n $candidate && $candidate != '(none)' ]] && dpkg --compare-versions "$candidate" ge "$OLDEST_TORCH"
}

# install_distribution_torch: with a fast BLAS. The one that python3-torch brings along by itself is the reference
# implementation: a matrix product took 23 ms with it and 1.3 ms with OpenBLAS.
install_distribution_torch() {
    local package missing=()
    for package in python3-torch libopenblas0-pthread; do
        LC_ALL=C dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    if ((${#missing[@]} == 0)); then return 0; fi
    if [[ ${missing[*]} == libopenblas0-pthread ]] && ! can_be_root; then
        note "training will be slow: ask an administrator for: apt-get install libopenblas0-pthread"
        return 0
    fi
    for package in "${missing[@]}"; do note "$(printf '%-20s %s' "$package" "$(reason_for "$package")")"; done
    install_packages "${missing[@]}"
}

# choose_torch: the smallest torch that trains here. In this order: one that is there; the index the user names; the
# pinned version where pip finds it without accelerator libraries, or where there is a GPU to use them; the
# distribution's; whatever pip finds, with a warning.
choose_torch() {
    local pinned build
    accept_torch && return 0
    pinned=$(grep '^torch==' "$ROOT/constraints.txt")
    if [[ -n ${HPCTRAIN_TORCH_INDEX_URL:-} ]]; then
        free_of torch >"$VENV/constraints.txt"
        install_python "torch from HPCTRAIN_TORCH_INDEX_URL" --no-deps --index-url "$HPCTRAIN_TORCH_INDEX_URL" "torch>=$OLDEST_TORCH"
        accept_torch
        return
    fi
    build=$(torch_build "$pinned") || { free_of torch >"$VENV/constraints.txt"; build=$(torch_build "torch>=$OLDEST_TORCH") || build='none -'; }
    if [[ $build == cpu* ]] || { [[ $build == accelerator* ]] && has_nvidia_gpu; }; then
        note "torch ${build#* } (${build% *} build)"
    elif distribution_torch; then
        note "torch: the distribution's python3-torch, a CPU build (pip would bring accelerator libraries of several GB)"
        install_distribution_torch
        make_venv "$SYSTEM_PYTHON" --system-site-packages
        accept_torch || die "python3-torch is installed, but $SYSTEM_PYTHON cannot import it"
    elif [[ $build == accelerator* ]]; then
        note "torch ${build#* } with its accelerator libraries: a download of several GB, used here on CPUs only."
        note "To avoid it, stop now, set HPCTRAIN_TORCH_INDEX_URL to the CPU-only index that PyTorch's"
        note "installation page names, and run this again."
    else
        die "pip finds no torch >= $OLDEST_TORCH for $("$VENV/bin/python" -V)" \
            "set HPCTRAIN_PYTHON to another Python, or HPCTRAIN_TORCH_INDEX_URL to an index that has torch" \
            "pip's output is in $SETUP_LOG"
    fi
}

# make_environment EXTRA...: .venv with the package, editable, and these extras.
make_environment() {
    local extra extras key
    say "Setting up Python (only what changed since the last time)"
    # An environment of another checkout, of another Python or half made is not worth mending.
    if [[ ! -x $VENV/bin/python || ! -e $(stamp base) || $(<"$(stamp base)") != "$(base_key)" ]]; then
        find_python || die "no Python >= 3.10 with venv and ensurepip" "install one, or name it in HPCTRAIN_PYTHON"
        make_venv "$PYTHON"
    fi
    for extra in "$@"; do rm -f "$(stamp "$extra")"; done
    choose_torch
    extras=$(IFS=,; echo "$*")
    install_python "hpctrain[$extras]" --no-build-isolation --editable "${ROOT}[$extras]"
    key=$(environment_key)
    for extra in "$@"; do echo "$key" >"$(stamp "$extra")"; done
}

# base_key: what an environment must be made anew for.
base_key() {
    printf '%s\n' "$ROOT" "${HPCTRAIN_PYTHON:-}" "${HPCTRAIN_TORCH_INDEX_URL:-}"
    grep '^torch==' "$ROOT/constraints.txt"
    "$VENV/bin/python" -c 'import sys; print(sys.version_info[:2])'
}

# missing_programs EXTRA...: print what must come from the distribution, one program or package a line.
missing_programs() {
    local program programs=(slurmctld slurmd sbatch munged)
    [[ " $* " != *' test '* ]] || programs+=(shellcheck sshd ssh-keygen)
    for program in "${programs[@]}"; do has "$program" || echo "$program"; done
    ready "$@" || find_python || {
        [[ -z ${HPCTRAIN_PYTHON:-} ]] || die "HPCTRAIN_PYTHON=$HPCTRAIN_PYTHON is no Python >= 3.10 with venv and ensurepip"
        has "$SYSTEM_PYTHON" || echo python3
        echo python3-venv
    }
}

# set_up EXTRA...: everything that is missing and nothing else; quick, and without root, when all is there.
set_up() {
    local started=$SECONDS missing lock
    missing=$(missing_programs "$@") || exit 1
    if [[ -n $missing ]] || ! ready "$@"; then
        { : >"$SETUP_LOG"; } 2>/dev/null || die "you may not write to $(dirname -- "$VENV")" \
            "clone the repository to a place of your own and run it there, or name another place in HPCTRAIN_VENV"
        # Two runs at once must not build the same environment.
        exec {lock}>>"$VENV.lock"
        flock "$lock"
        mapfile -t missing < <(missing_programs "$@")
        need_packages "${missing[@]}"
        ready "$@" || make_environment "$@"
        exec {lock}>&-
    fi
    export PATH=$VENV/bin:$PATH
    say "Set-up is complete ($((SECONDS - started)) s)"
}
