"""Plan to the text of the batch script (pure; jinja2 is the template language).

What a recipe says can reach the script in two places only: ``#SBATCH`` lines, which sbatch reads by rules of its own
(:func:`sbatch_word`), and single words of the shell, which :func:`shlex.quote` wraps. Everything else the coordinator
and the agents read from ``plan.json``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from hpctrain import __version__
from hpctrain.agent.rank_environment import CONTAINER_PACKAGE_DIR, container_mounts
from hpctrain.errors import RecipeError
from hpctrain.submit.plan_model import Plan, SlurmRequest

TEMPLATE = "sbatch/job.sh.j2"
"""The template's path below ``slurm_scripts``."""
_PLAIN = re.compile(r"^[A-Za-z0-9_./:@+,=%-]+$")


def render(plan: Plan, template: str, *, package_dir: str) -> str:
    """The batch script.

    Args:
        template: text of :data:`TEMPLATE`.
        package_dir: directory of hpctrain's Python package, which containers mount.

    Raises:
        RecipeError: a value holds a character that no batch script can carry.
    """
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - shell, not HTML; every value is quoted before it gets here
    )
    return environment.from_string(template).render(
        header=list(header(plan.slurm)), version=__version__, run_dir=shell_word(plan.run_dir),
        python=shell_word(plan.python), srun=list(srun_words(plan, package_dir)), agent_python=_agent_python(plan),
        signal_before_limit_s=int(plan.slurm.signal_before_limit_s),
    )


def header(request: SlurmRequest) -> Iterator[str]:
    """The options of the ``#SBATCH`` lines."""
    yield f"--job-name={sbatch_word(request.job_name)}"
    yield f"--comment={sbatch_word(request.comment)}"
    yield f"--output={sbatch_word(output_pattern(request.output))}"
    yield "--open-mode=append"
    yield f"--nodes={int(request.nodes)}"
    yield "--ntasks-per-node=1"
    yield from _amounts(request)
    if request.time_limit_s is not None:
        yield f"--time={slurm_time(request.time_limit_s)}"
    for option in ("partition", "account", "qos", "reservation", "constraint"):
        value = getattr(request, option)
        if value is not None:
            yield f"--{option}={sbatch_word(value)}"
    if request.exclusive:
        yield "--exclusive"
    if request.after is not None:
        yield f"--dependency=after:{int(request.after)}"
    yield "--requeue" if request.requeue else "--no-requeue"
    yield "--no-kill"
    yield f"--signal=B:USR1@{int(request.signal_before_limit_s)}"


def srun_words(plan: Plan, package_dir: str) -> Iterator[str]:
    """The options of ``srun``, ready for the shell: one agent per node, with all that the job has of the node.

    ``--cpus-per-task`` is repeated because srun stopped taking it over from sbatch in Slurm 22.05; ``--wait=0``
    overrules a site's WaitTime, which would end agents that are still saving when another is through.
    """
    request = plan.slurm
    yield f"--nodes={int(request.nodes)}"
    yield f"--ntasks={int(request.nodes)}"
    yield "--ntasks-per-node=1"
    if request.cpus_per_node is not None:
        yield f"--cpus-per-task={int(request.cpus_per_node)}"
    if request.gpus_per_node:
        yield shell_word(f"--gres={_gres(request)}")
    if not plan.one_host:
        # The agent's ranks share all CPUs of its task. (The private cluster binds nothing and warns when told not to.)
        yield "--cpu-bind=none"
    # --no-kill: when a node dies the agents of the others live on, and its place is taken by another.
    yield from ("--mpi=none", "--input=none", "--wait=0", "--no-kill", "--kill-on-bad-exit=0")
    if plan.container is not None and any(char in plan.run_dir + package_dir for char in ":,"):
        raise RecipeError(
            f"a path with a colon or comma cannot be mounted into a container: {plan.run_dir}, {package_dir}",
            hint="choose another runs_dir",
        )
    if plan.container is not None and plan.container.runtime == "pyxis":
        mounts = ",".join(container_mounts(plan.container, plan.run_dir, package_dir))
        yield shell_word(f"--container-image={plan.container.image}")
        yield shell_word(f"--container-mounts={mounts}")


def sbatch_word(value: str) -> str:
    """A value as sbatch's own parser of ``#SBATCH`` lines reads it back unchanged.

    It knows no shell: words end at blanks, ``#`` starts a comment, and inside double quotes a backslash makes the next
    character ordinary (tried with Slurm 22.05).
    """
    _refuse_control(value)
    if _PLAIN.match(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def shell_word(value: str) -> str:
    """A value as one word of the shell."""
    _refuse_control(value)
    return shlex.quote(value)


def output_pattern(path: str) -> str:
    """A path as Slurm's ``--output`` reads it back unchanged.

    Raises:
        RecipeError: it holds a backslash, which Slurm drops from file names.
    """
    if "\\" in path:
        raise RecipeError(
            f"the run directory's path holds a backslash, which Slurm cannot write to: {path!r}",
            hint="choose another runs_dir",
        )
    return path.replace("%", "%%")


def slurm_time(seconds: int) -> str:
    """``D-HH:MM:SS``, rounded up to the minute, which is the grain of Slurm's limits."""
    minutes = -(-int(seconds) // 60)
    return f"{minutes // 1440}-{minutes % 1440 // 60:02d}:{minutes % 60:02d}:00"


def _amounts(request: SlurmRequest) -> Iterator[str]:
    if request.gpus_per_node:
        # Not --gpus-per-node: select/cons_res, which 21.08 to 23.02 still have, refuses it.
        yield f"--gres={sbatch_word(_gres(request))}"
    if request.cpus_per_node is not None:
        yield f"--cpus-per-task={int(request.cpus_per_node)}"
    if request.memory_per_node_mib is not None:
        yield f"--mem={int(request.memory_per_node_mib)}M" if request.memory_per_node_mib else "--mem=0"


def _gres(request: SlurmRequest) -> str:
    kind = f"{request.gpu_type}:" if request.gpu_type else ""
    return f"gpu:{kind}{int(request.gpus_per_node)}"


def _agent_python(plan: Plan) -> str:
    """Under pyxis the agent itself runs inside the image, on the image's Python and our mounted package."""
    if plan.container is not None and plan.container.runtime == "pyxis":
        return f"env PYTHONPATH={CONTAINER_PACKAGE_DIR} python3"
    return '"$python"'


def _refuse_control(value: str) -> None:
    bad = next((char for char in value if ord(char) < 32 or ord(char) == 127), None)
    if bad is not None:
        raise RecipeError(f"{value[:60]!r} holds the control character {bad!r}, which a batch script cannot carry")
