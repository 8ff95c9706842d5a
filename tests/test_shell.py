"""The set-up scripts: clean for shellcheck, honest about what they install, and harmless where nothing is missing.

Programs that would change this machine (apt-get, sudo) are small stand-ins in a PATH of their own, which write down
how they were called; everything else of the scripts runs for real.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.process import Result
from tests.source_tree import ROOT

SCRIPTS = ("quickstart.sh", "run_tests.sh", "scripts/setup.sh", ".ci/run", "scripts/record_slurm_outputs.sh",
           "tests/golden/slurm/cluster.sh", "tests/golden/slurm/record.sh", "tests/golden/slurm/record_states.sh")
TOOLS = ("bash", "cat", "chmod", "cut", "date", "dirname", "env", "flock", "grep", "id", "mkdir", "rm", "sed", "sha256sum",
         "tail", "tee", "tr", "printf", "touch", "mv")
SLURM = ("slurmctld", "slurmd", "sbatch", "munged")


@dataclass
class Sandbox:
    """A copy of the set-up files and a PATH that holds only what a test puts there."""

    root: Path
    bin: Path
    env: dict[str, str] = field(default_factory=dict)

    def program(self, name: str, body: str = "exit 0") -> None:
        """Put a program into the PATH."""
        path = self.bin / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def bash(self, code: str, timeout_s: float = 60) -> Result:
        """Run code after sourcing setup.sh. sbin directories are hidden, so that this machine's Slurm is not found."""
        # `has` looks in the sbin directories as well: here it must see the sandbox alone.
        preamble = 'set -euo pipefail; source scripts/setup.sh; has() { command -v "$1" >/dev/null 2>&1; }; '
        return process.run(["/bin/bash", "-c", preamble + code], timeout_s=timeout_s, cwd=str(self.root), env=self.env)

    @property
    def calls(self) -> str:
        """What the stand-ins wrote down."""
        path = self.root / "calls"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def sandbox(ugly_dir: Path) -> Sandbox:
    """A machine with nothing but a shell, in a directory with an ugly name."""
    root, programs = ugly_dir / "checkout", ugly_dir / "bin"
    (root / "scripts").mkdir(parents=True)
    programs.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt", "scripts/setup.sh", "scripts/torch_build.py"):
        shutil.copy(ROOT / name, root / name)
    for name in TOOLS:
        (programs / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    env = {"PATH": str(programs), "HOME": str(ugly_dir), "SYSTEM_PYTHON": str(ugly_dir / "none"),
           "POLICY_FILE": str(ugly_dir / "policy-rc.d")}
    return Sandbox(root, programs, env)


def as_user(box: Sandbox) -> str:
    """Shell code that makes the script believe in an ordinary user, whoever runs the tests."""
    box.program("sudo", 'echo "sudo $*" >> calls; while [[ $1 == -* ]]; do shift; done; exec "$@"')
    return 'can_be_root() { has sudo; }; as_root() { sudo -n "$@"; }; '


def apt(box: Sandbox, *, knows: bool = True, fails: str = "") -> None:
    """An apt that installs a package by creating its programs."""
    candidate = "1.0" if knows else "(none)"
    box.program("apt-cache", f"""
if [[ -e updated ]]; then candidate=1.0; else candidate='{candidate}'; fi
printf '%s:\\n  Candidate: %s\\n' "$2" "$candidate"
""")
    box.program("apt-get", f"""
echo "apt-get $*" >> calls
[[ -e $POLICY_FILE ]] && echo "policy: $(tail -n 1 "$POLICY_FILE")" >> calls
if [[ $1 == update ]]; then touch updated; exit 0; fi
{fails}
cd "$(dirname "$0")"
for name in slurmctld slurmd sbatch munged; do printf '#!/bin/bash\\n' > "$name"; chmod 755 "$name"; done
""")


# ---------------------------------------------------------------- form


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_clean(script: str) -> None:
    """Bash parses every script, and shellcheck has nothing to say."""
    assert process.run(["bash", "-n", str(ROOT / script)], timeout_s=30).ok
    checked = process.run(["shellcheck", "--external-sources", script], timeout_s=60, cwd=str(ROOT))

    assert "" == checked.stdout + checked.stderr


@pytest.mark.parametrize("script", ["quickstart.sh", "run_tests.sh", ".ci/run"])
def test_scripts_can_be_run(script: str) -> None:
    """What people type is executable."""
    assert (ROOT / script).stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("script", ["quickstart.sh", "run_tests.sh"])
def test_help_changes_nothing(script: str, tmp_path: Path) -> None:
    """--help works from anywhere, explains the options and sets nothing up."""
    result = process.run([str(ROOT / script), "--help"], timeout_s=30, cwd=str(tmp_path))

    assert result.ok
    assert f"usage: ./{script}" in result.stdout
    assert "Set-up" not in result.stdout


def test_quickstart_refuses_what_it_does_not_know() -> None:
    """An unknown option is refused before anything is installed, with exit code 2."""
    result = process.run([str(ROOT / "quickstart.sh"), "--bogus"], timeout_s=30)

    assert 2 == result.returncode
    assert "unknown option: --bogus" in result.stderr


# ---------------------------------------------------------------- packages of the distribution


def test_missing_packages_are_named_with_a_reason_and_installed(sandbox: Sandbox) -> None:
    """Each missing package is listed with why it is wanted, and one apt command installs exactly those."""
    apt(sandbox)
    code = 'mapfile -t m < <(missing_programs train | grep -v python); need_packages "${m[@]}"'
    result = sandbox.bash(as_user(sandbox) + code)

    assert result.ok, result.stderr
    assert "slurmctld      Slurm's controller" in result.stdout
    assert "munge          authenticates" in result.stdout
    install = [line for line in sandbox.calls.splitlines() if line.startswith("apt-get install")]
    assert 1 == len(install)
    assert "--no-install-recommends" in install[0]
    assert install[0].endswith("slurmctld slurmd slurm-client munge")
    assert "apt-get update" not in sandbox.calls


def test_services_stay_stopped_while_packages_are_installed(sandbox: Sandbox) -> None:
    """Debian's own daemons must not start: a policy forbids it during the installation and is gone afterwards."""
    apt(sandbox)
    sandbox.bash(as_user(sandbox) + "need_packages munged")

    assert "policy: exit 101" in sandbox.calls
    assert not Path(sandbox.env["POLICY_FILE"]).exists()


def test_a_policy_of_the_site_is_left_alone(sandbox: Sandbox) -> None:
    """A policy that somebody else wrote is neither replaced nor removed."""
    apt(sandbox)
    policy = Path(sandbox.env["POLICY_FILE"])
    policy.write_text("#!/bin/sh\nexit 0 # the site's\n")
    sandbox.bash(as_user(sandbox) + "need_packages munged")

    assert "#!/bin/sh\nexit 0 # the site's\n" == policy.read_text()


def test_package_lists_are_refreshed_only_when_they_do_not_do(sandbox: Sandbox) -> None:
    """A machine whose lists do not know a package gets one 'apt-get update' first."""
    apt(sandbox, knows=False)
    result = sandbox.bash(as_user(sandbox) + "need_packages munged")

    assert result.ok, result.stderr
    assert ["update", "install"] == [line.split()[1] for line in sandbox.calls.splitlines() if line.startswith("apt-get")]


def test_stale_package_lists_are_refreshed_after_a_failure(sandbox: Sandbox) -> None:
    """An installation that fails with the present lists is tried once more with new ones."""
    apt(sandbox, fails="[[ -e updated ]] || { echo '404 not found' >&2; exit 100; }")
    result = sandbox.bash(as_user(sandbox) + "need_packages munged")

    assert result.ok, result.stderr
    calls = [line.split()[1] for line in sandbox.calls.splitlines() if line.startswith("apt-get")]
    assert ["install", "update", "install"] == calls


def test_a_failed_installation_says_what_apt_said(sandbox: Sandbox) -> None:
    """When apt cannot do it, its last lines and one clear error appear, and the policy is gone."""
    apt(sandbox, fails="echo 'E: Unable to locate package munge' >&2; exit 100")
    result = sandbox.bash(as_user(sandbox) + "need_packages munged")

    assert 1 == result.returncode
    assert "| E: Unable to locate package munge" in result.stderr
    assert "error: apt could not install: munge" in result.stderr
    assert not Path(sandbox.env["POLICY_FILE"]).exists()


def test_without_root_the_command_for_an_administrator_is_printed(sandbox: Sandbox) -> None:
    """An ordinary user without sudo gets the exact command to pass on, and nothing is tried."""
    apt(sandbox)
    result = sandbox.bash("can_be_root() { false; }; need_packages slurmctld sbatch")

    assert 1 == result.returncode
    assert "apt-get install --no-install-recommends slurmctld slurm-client" in result.stderr
    assert "" == sandbox.calls


def test_a_system_without_apt_is_told_what_is_needed(sandbox: Sandbox) -> None:
    """Elsewhere than on Debian and Ubuntu the script names what is missing and stops."""
    result = sandbox.bash("need_packages slurmd")

    assert 1 == result.returncode
    assert "there is no apt-get to install them: slurmd" in result.stderr


def test_tests_need_shellcheck_too(sandbox: Sandbox) -> None:
    """Only the tests ask for shellcheck."""
    for name in SLURM:
        sandbox.program(name)

    assert "shellcheck" not in sandbox.bash("missing_programs train").stdout
    assert "shellcheck" in sandbox.bash("missing_programs train test").stdout


# ---------------------------------------------------------------- Python


def test_old_pythons_are_passed_over(sandbox: Sandbox) -> None:
    """The first interpreter that is new enough and complete wins; older or crippled ones are skipped."""
    sandbox.program("python3", "exit 1")  # too old, or without ensurepip
    sandbox.program("python3.12", f'exec "{sys.executable}" "$@"')
    result = sandbox.bash('find_python && echo "$PYTHON"')

    assert "python3.12\n" == result.stdout


def test_a_machine_without_python_asks_for_it(sandbox: Sandbox) -> None:
    """Where no Python will do, the distribution's is on the list of what to install."""
    for name in SLURM:
        sandbox.program(name)

    assert ["python3", "python3-venv"] == sandbox.bash("missing_programs train").stdout.split()


def test_a_python_chosen_by_the_user_must_do(sandbox: Sandbox) -> None:
    """HPCTRAIN_PYTHON is used or refused, never silently replaced."""
    sandbox.env["HPCTRAIN_PYTHON"] = "/nonexistent/python"
    result = sandbox.bash("missing_programs train")

    assert result.returncode != 0
    assert "HPCTRAIN_PYTHON=/nonexistent/python is no Python >= 3.10" in result.stderr


def test_a_checkout_that_is_not_ours_is_refused(sandbox: Sandbox) -> None:
    """Where the environment cannot be written the user is told to clone, and nothing is tried."""
    sandbox.env["HPCTRAIN_VENV"] = "/proc/hpctrain-venv"
    result = sandbox.bash("set_up train")

    assert 1 == result.returncode
    assert "you may not write to /proc" in result.stderr
    assert "clone the repository" in result.stderr


def stamped(box: Sandbox, *extras: str) -> None:
    """A finished environment, as far as setup.sh can tell without importing anything."""
    venv = box.root / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").write_text(f'#!/bin/bash\nexec "{sys.executable}" "$@"\n')
    (venv / "bin" / "python").chmod(0o755)
    for name in SLURM:
        box.program(name)
    result = box.bash("".join(f'environment_key > "$(stamp {extra})"; ' for extra in extras))
    assert result.ok, result.stderr


def test_a_second_run_does_nothing(sandbox: Sandbox) -> None:
    """With everything in place, set-up neither needs root nor runs pip, and is done in a moment."""
    stamped(sandbox, "train")
    apt(sandbox)
    result = sandbox.bash("can_be_root() { false; }; set_up train; echo \"${PATH%%:*}\"")

    assert result.ok, result.stderr
    assert [str(sandbox.root / ".venv/bin")] == result.stdout.splitlines()[1:]
    assert "" == sandbox.calls
    assert not (sandbox.root / ".venv.log").exists()


@pytest.mark.parametrize("change", ["setup.cfg", "constraints.txt", "pyproject.toml"])
def test_a_changed_requirement_is_noticed(sandbox: Sandbox, change: str) -> None:
    """Editing a file that decides what is installed makes the environment not ready."""
    stamped(sandbox, "train")
    assert sandbox.bash("ready train").ok
    with (sandbox.root / change).open("a") as file:
        file.write("# changed\n")

    assert not sandbox.bash("ready train").ok


def test_an_environment_for_training_is_not_one_for_tests(sandbox: Sandbox) -> None:
    """Every extra has a stamp of its own."""
    stamped(sandbox, "train")

    assert not sandbox.bash("ready train test").ok


def test_a_moved_checkout_is_noticed(sandbox: Sandbox) -> None:
    """Environments hold absolute paths: one that was moved is made anew."""
    stamped(sandbox, "train")
    moved = sandbox.root.with_name("elsewhere")
    sandbox.root.rename(moved)
    sandbox.root = moved

    assert not sandbox.bash("ready train").ok


# ---------------------------------------------------------------- which torch


def torch_box(box: Sandbox, build: str) -> None:
    """A sandbox in which pip would find this build of torch."""
    (box.root / ".venv").mkdir()
    box.env["BUILD"] = build


CHOOSE = """
accept_torch() { return 1; }; make_venv() { echo "make_venv $2"; }; install_python() { echo "pip: $*"; }
torch_build() { [[ -n $BUILD ]] && echo "$BUILD"; }
"""


def test_the_index_of_the_user_comes_first(sandbox: Sandbox) -> None:
    """HPCTRAIN_TORCH_INDEX_URL is used for torch alone, before pip's own finds are looked at."""
    torch_box(sandbox, "accelerator 2.13.0")
    sandbox.env["HPCTRAIN_TORCH_INDEX_URL"] = "file:///my/index"
    result = sandbox.bash(CHOOSE + "accept_torch() { [[ -e chosen ]] || { touch chosen; return 1; }; }; choose_torch")

    assert "--no-deps --index-url file:///my/index torch>=2.6" in result.stdout


def test_a_cpu_build_is_taken_as_it_comes(sandbox: Sandbox) -> None:
    """Where pip finds the pinned version without accelerator libraries, nothing else is asked."""
    torch_box(sandbox, "cpu 2.13.0+cpu")
    result = sandbox.bash(CHOOSE + "choose_torch")

    assert "    torch 2.13.0+cpu (cpu build)\n" == result.stdout


def test_the_distributions_torch_saves_gigabytes(sandbox: Sandbox) -> None:
    """Where pip would bring accelerator libraries and the distribution has a torch, that one is used."""
    torch_box(sandbox, "accelerator 2.13.0")
    code = """has_nvidia_gpu() { false; }; distribution_torch() { true; }; torch_version() { return 1; }
              accept_torch() { [[ -e chosen ]] || { touch chosen; return 1; }; }
              install_packages() { echo "apt: $*"; }; choose_torch"""
    result = sandbox.bash(CHOOSE + code)

    assert result.ok, result.stderr
    assert "apt: python3-torch libopenblas0-pthread" in result.stdout
    assert "make_venv --system-site-packages" in result.stdout


@pytest.mark.parametrize(("root", "expected"), [("true", "apt: libopenblas0-pthread"), ("false", "training will be slow")])
def test_the_distributions_torch_gets_a_fast_blas(sandbox: Sandbox, root: str, expected: str) -> None:
    """A python3-torch that is there without OpenBLAS gets it, or who cannot install it is told what that costs."""
    sandbox.program("dpkg-query", '[[ ${!#} == python3-torch ]] && echo "install ok installed"')
    code = f'can_be_root() {{ {root}; }}; install_packages() {{ echo "apt: $*"; }}; install_distribution_torch'

    assert expected in sandbox.bash(code).stdout


def test_a_gpu_is_worth_its_libraries(sandbox: Sandbox) -> None:
    """On a machine with an NVIDIA driver the accelerator build is what is wanted."""
    torch_box(sandbox, "accelerator 2.13.0")
    result = sandbox.bash(CHOOSE + "has_nvidia_gpu() { true; }; choose_torch")

    assert "    torch 2.13.0 (accelerator build)\n" == result.stdout


def test_a_large_download_is_announced(sandbox: Sandbox) -> None:
    """When only the large build is left, its size and the way around it are said before it starts."""
    torch_box(sandbox, "accelerator 2.13.0")
    result = sandbox.bash(CHOOSE + "has_nvidia_gpu() { false; }; distribution_torch() { false; }; choose_torch")

    assert result.ok
    assert "several GB" in result.stdout
    assert "HPCTRAIN_TORCH_INDEX_URL" in result.stdout


def test_no_torch_at_all_is_one_clear_error(sandbox: Sandbox) -> None:
    """Where nobody has a torch for this Python, the ways out are named."""
    torch_box(sandbox, "")
    (sandbox.root / ".venv/bin").mkdir()
    sandbox.program("python", "echo Python 3.99")
    (sandbox.root / ".venv/bin/python").symlink_to(sandbox.bin / "python")
    result = sandbox.bash(CHOOSE + "has_nvidia_gpu() { false; }; distribution_torch() { false; }; choose_torch")

    assert 1 == result.returncode
    assert "error: pip finds no torch >= 2.6 for Python 3.99" in result.stderr
    assert "HPCTRAIN_PYTHON" in result.stderr


def test_another_torch_keeps_what_it_requires_to_the_letter(sandbox: Sandbox) -> None:
    """Constraints name the torch that is there, and leave out what that torch pins itself; all others stay."""
    torch_box(sandbox, "")
    code = """torch_version() { echo 2.6.0+debian; }; exact_requirements() { printf '%s\\n' sympy typing-extensions; }
              accept_torch; cat "$VENV/constraints.txt" """
    lines = sandbox.bash(code).stdout.splitlines()
    before = (sandbox.root / "constraints.txt").read_text().splitlines()

    assert "torch==2.6.0+debian" == lines[-1]
    assert ["sympy", "torch", "typing-extensions"] == [line.partition("==")[0] for line in before if line not in lines]


def test_exact_requirements_are_read_from_the_installed_torch(sandbox: Sandbox) -> None:
    """Only what the installed torch pins with == counts, by its normalised name."""
    info = sandbox.root / "site" / "torch-2.6.0.dist-info"
    info.mkdir(parents=True)
    requires = ("sympy==1.13.1; python_version >= '3.9'", "filelock", "typing_extensions (==4.10)", "fsspec>=1")
    header = "Metadata-Version: 2.1\nName: torch\nVersion: 2.6.0\n"
    (info / "METADATA").write_text(header + "".join(f"Requires-Dist: {line}\n" for line in requires))
    (sandbox.root / ".venv/bin").mkdir(parents=True)
    (sandbox.root / ".venv/bin/python").symlink_to(sys.executable)
    sandbox.env["PYTHONPATH"] = str(info.parent)

    assert ["sympy", "typing-extensions"] == sandbox.bash("exact_requirements").stdout.split()


@pytest.mark.parametrize(("requirements", "version", "build"), [
    ([], "2.13.0", "cpu"),
    (["nvidia-cudnn-cu13==9; platform_system == 'Linux'"], "2.13.0", "accelerator"),
    (["nvidia-cudnn-cu13==9; platform_system == 'Windows'"], "2.13.0", "cpu"),
    (["cuda-toolkit[nvrtc]==13.0.3; platform_system == 'Linux'"], "2.13.0", "accelerator"),
    (["triton==3.7; platform_system == 'Linux'", "sympy"], "2.13.0", "accelerator"),
    (["opt-einsum>=3.3; extra == 'opt-einsum'", "networkx>=2.5"], "2.13.0", "cpu"),
    (["nvidia-cudnn-cu13==9"], "2.13.0+cpu", "cpu"),
])
def test_builds_are_told_apart(requirements: list[str], version: str, build: str) -> None:
    """A build counts as an accelerator's when it requires accelerator libraries on this platform."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("torch_build", ROOT / "scripts/torch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    assert build == module.build_of(requirements, version)


# ---------------------------------------------------------------- run_tests.sh

FAST = "not slow and not docker and not long"


def run_tests(tmp_path: Path, *arguments: str, **programs: str) -> Result:
    """Run a copy of run_tests.sh whose set-up does nothing and whose tools are these shell lines."""
    checkout = tmp_path / "checkout"
    (checkout / "scripts").mkdir(parents=True)
    (checkout / "bin").mkdir()
    (checkout / "docker-slurm").mkdir()
    (checkout / "docker-slurm/engine.sh").write_text("exit 1\n")  # no engine can be had
    shutil.copy(ROOT / "run_tests.sh", checkout)
    (checkout / "scripts/setup.sh").write_text(
        f'ROOT={checkout}\nset_up() {{ PATH={checkout}/bin:$PATH; }}\n'
        'say() { echo "==> $*"; }\nnote() { echo "    $*"; }\n'
    )
    for name, body in {"ruff": "exit 0", "mypy": "exit 0", "shellcheck": "exit 0", **programs}.items():
        (checkout / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (checkout / "bin" / name).chmod(0o755)
    env = {**os.environ, "GIT_DIR": "/nonexistent"}
    return process.run([str(checkout / "run_tests.sh"), *arguments], timeout_s=60, env=env)


def test_run_tests_stops_before_the_tests_when_a_check_fails(tmp_path: Path) -> None:
    """All three checks run and are timed, then their failures end the run with exit code 1, without pytest."""
    result = run_tests(tmp_path, "--fast", ruff="exit 1", python="exit 9")

    assert 1 == result.returncode
    assert "ruff FAILED" in result.stdout
    assert "mypy passed" in result.stdout
    assert "shellcheck passed" in result.stdout
    assert "error: failed before the tests: ruff" in result.stderr


@pytest.mark.parametrize(("arguments", "expected"), [
    ([], ["-m", "not long"]),
    (["--fast"], ["-m", FAST]),
    (["--long"], []),
    (["--fast", "tests/unit", "-k", "a b"], ["-m", FAST, "tests/unit", "-k", "a b"]),
])
def test_run_tests_selects_by_marker(tmp_path: Path, arguments: list[str], expected: list[str]) -> None:
    """--fast and --long choose by marker, further arguments reach pytest whole, and pytest's exit code is the script's."""
    result = run_tests(tmp_path, *arguments, python="printf '%s\\n' \"$@\"\nexit 5")

    assert 5 == result.returncode
    assert ["-m", "pytest", *expected] == result.stdout.split("==> pytest\n")[1].splitlines()
