"""A Slurm cluster of containers: separate hosts with their own addresses, users, memory and accounting (service).

One Compose project per cluster; what each container does is in ``docker-slurm/``. The names of the nodes are Slurm's,
c1 to cN; ``mariadb``, ``slurmdbd``, ``slurmctld`` and ``login`` are the other machines.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hpctrain import process
from hpctrain.devcluster.docker_image import DEFAULT_SUITE, build_image, checkout, image_tag, require_engine
from hpctrain.devcluster.layout import DEFAULT_NODES, check_name
from hpctrain.errors import ClusterError, MissingDependencyError, NotFoundError, UsageError

MOST_NODES = 32
MACHINES = ("mariadb", "slurmdbd", "slurmctld", "login")
_PROJECT_LABEL = "com.docker.compose.project"
_SERVICE_LABEL = "com.docker.compose.service"
_NUMBER_LABEL = "com.docker.compose.container-number"
_PREFIX = "hpctrain-"
_UP_TIMEOUT_S = 600
_POLL_S = 1.0
_SIMULATE = ("/opt/hpctrain/bin/python", "-I", "-m", "hpctrain.devcluster.simulate")
_NODE_FILES = "/var/lib/hpctrain/node"


@dataclass(frozen=True, slots=True)
class Machine:
    """One container of a cluster.

    Attributes:
        name: Slurm's name of a node, or the service of another machine.
        container: Docker's name of it.
        state: ``running``, ``exited``, ``paused``, ...
        healthy: it runs, and its health check agrees.
    """

    name: str
    container: str
    state: str
    healthy: bool


class DockerCluster:
    """One dockerised cluster, which need not be up.

    Args:
        name: of the cluster; its Compose project is ``hpctrain-NAME``.
        suite: Debian's suite that its image is made from.
        say: told what is being done.
    """

    def __init__(
        self, name: str = "default", *, suite: str = DEFAULT_SUITE, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.name, self.suite, self._say = check_name(name), suite, say
        self.project = _PREFIX + name

    # ------------------------------------------------------------ as a whole

    def up(self, nodes: int = DEFAULT_NODES, *, gpus_per_node: int = 8, build: bool = True) -> list[Machine]:
        """Build the image, start what does not run, and wait until every machine is healthy.

        Raises:
            MissingDependencyError: no engine, no Compose, no source.
            ClusterError: a machine does not get healthy, with the end of its log.
        """
        if not 1 <= nodes <= MOST_NODES:
            raise UsageError(f"a dockerised cluster has 1 to {MOST_NODES} nodes")
        require_engine()
        if build:
            build_image(self.suite, say=self._say)
        # What it was made with stays: another value would replace every machine, where only nodes are to be added.
        env = {"NODES": str(nodes), "GPUS": str(gpus_per_node), "SUITE": self.suite, **self._made_with()}
        self._say(f"starting cluster '{self.name}': database, accounting, controller, login node, {nodes} nodes")
        self._compose(["up", "--detach", "--no-build", "--scale", f"c={nodes}"], {**env, "COMPOSE_IGNORE_ORPHANS": "1"})
        return self._healthy(nodes)

    def down(self) -> bool:
        """End the cluster and remove its containers, networks and volumes; false if there was nothing."""
        require_engine()
        existed = bool(self.machines())
        self._compose(["down", "--volumes", "--remove-orphans", "--timeout", "2"], {})
        return existed

    def machines(self) -> list[Machine]:
        """The containers of the cluster: first the services, then the nodes by number.

        Raises:
            MissingDependencyError: no engine answers.
        """
        ours = f"label={_PROJECT_LABEL}={self.project}"
        answer = _docker(["ps", "--all", "--no-trunc", "--filter", ours, "--format", "{{json .}}"])
        if not answer.ok:
            require_engine()  # says what is wrong and what to do
            raise ClusterError(f"docker ps: {answer.stderr.strip()}")
        found = [_machine(json.loads(text)) for text in answer.stdout.splitlines() if text.strip()]
        order = {name: place for place, name in enumerate(MACHINES)}
        return sorted(found, key=lambda one: (order.get(one.name, len(order)), len(one.name), one.name))

    def _made_with(self) -> dict[str, str]:
        """The settings of the machines that there are."""
        controller = next((one.container for one in self.machines() if one.name == "slurmctld"), "")
        if not controller:
            return {}
        lines = _docker(["inspect", "--format", "{{range .Config.Env}}{{println .}}{{end}}", controller]).stdout.split()
        return dict(line.split("=", 1) for line in lines if line.startswith(("NODES=", "GPUS=", "SUITE=")))

    def _healthy(self, nodes: int) -> list[Machine]:
        wanted = {*MACHINES, *(f"c{number}" for number in range(1, nodes + 1))}
        end = time.monotonic() + _UP_TIMEOUT_S
        while True:
            found = {one.name: one for one in self.machines()}
            waiting = sorted(name for name in wanted if name not in found or not found[name].healthy)
            if not waiting:
                return [found[name] for name in found]
            ended = [name for name in waiting if name in found and found[name].state == "exited"]
            if ended or time.monotonic() > end:
                name = (ended or waiting)[0]
                log = _docker(["logs", "--tail", "20", found[name].container]) if name in found else None
                said = (log.stdout + log.stderr).strip() if log else "there is no such container"
                raise ClusterError(f"{name} of cluster '{self.name}' does not get ready:\n{said}")
            time.sleep(_POLL_S)

    # ------------------------------------------------------------ one machine

    def exec(
        self, machine: str, argv: Sequence[str], *, user: str = "alice", stdin: str = "", timeout_s: float = 60,
        env: Mapping[str, str] | None = None, cwd: str = "",
    ) -> process.Result:
        """Run a command on a machine; its exit status, output and error output.

        Args:
            user: who runs it; a user's command starts in the home directory, with an environment as after a login.
            env: further variables for it.

        Raises:
            NotFoundError: there is no such machine.
        """
        home = cwd or ("/root" if user == "root" else f"/shared/home/{user}")
        variables = {"HOME": home if not cwd else f"/shared/home/{user}", "USER": user, "LOGNAME": user, **(env or {})}
        options = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
        return _docker(
            ["exec", "--interactive", "--user", user, "--workdir", home, *options, self.container(machine), *argv],
            stdin=stdin, timeout_s=timeout_s,
        )

    def container(self, machine: str) -> str:
        """Docker's name of a machine. Raises NotFoundError."""
        for one in self.machines():
            if one.name == machine:
                return one.container
        hint = f"start the cluster with 'hpctrain cluster up --docker --name {self.name}'"
        raise NotFoundError(f"cluster '{self.name}' has no machine '{machine}'", hint=hint)

    def kill(self, machine: str) -> None:
        """Power failure: all its processes are gone at once, with memory and /dev/shm."""
        self._must(["kill", self.container(machine)])

    def start(self, machine: str) -> None:
        """Switch it on again, and wait until it is healthy; its disk is as it was."""
        self._must(["start", self.container(machine)])
        end = time.monotonic() + _UP_TIMEOUT_S
        while not any(one.name == machine and one.healthy for one in self.machines()):
            if time.monotonic() > end:
                raise ClusterError(f"{machine} of cluster '{self.name}' does not get ready")
            time.sleep(_POLL_S)

    def disconnect(self, node: str) -> None:
        """Pull a node's network cable: nothing passes, its address and its open connections stay as they are."""
        self._link(node, "down")

    def reconnect(self, node: str) -> None:
        """Plug it in again."""
        self._link(node, "up")

    def _link(self, node: str, state: str) -> None:
        answer = self.exec(node, ["ip", "link", "set", "eth0", state], user="root")
        if not answer.ok:
            raise ClusterError(f"{node}: {answer.stderr.strip()}")

    def address(self, machine: str) -> str:
        """IPv4 address of a machine on the cluster's network. Raises ClusterError: it has none."""
        template = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        answer = _docker(["inspect", "--format", template, self.container(machine)])
        if not answer.stdout.split():
            raise ClusterError(f"{machine} of cluster '{self.name}' has no address")
        return answer.stdout.split()[0]

    # ------------------------------------------------------------ simulated hardware

    def break_node(self, node: str, fault: str, number: int = 0, *, until: str = "") -> None:
        """Give a node's simulated hardware a fault of the catalogue.

        Raises:
            NotFoundError: no such node or fault.
            ClusterError: the node does not take it.
        """
        extra = ["--until", until] if until else []
        self._simulate(node, "break", fault, "--number", str(number), *extra)

    def heal_node(self, node: str) -> None:
        """Undo all faults of a node, as a repair and a reboot would."""
        self._simulate(node, "heal")

    def _simulate(self, node: str, verb: str, *arguments: str) -> None:
        answer = self.exec(node, [*_SIMULATE, verb, _NODE_FILES, node, *arguments], user="root")
        if not answer.ok:
            raise ClusterError(answer.stderr.strip() or f"node {node} did not take it")

    # ------------------------------------------------------------ Docker

    def _must(self, arguments: Sequence[str]) -> None:
        answer = _docker(arguments)
        if not answer.ok:
            raise ClusterError(f"docker {arguments[0]}: {answer.stderr.strip()}")

    def _compose(self, arguments: Sequence[str], env: Mapping[str, str]) -> None:
        folder = checkout() / "docker-slurm"
        command = [*_compose_command(), "--file", str(folder / "compose.yaml"), "--project-name", self.project, *arguments]
        variables = {"SUITE": self.suite, **env}
        answer = process.run(command, timeout_s=_UP_TIMEOUT_S, env={**os.environ, **variables}, cwd=str(folder))
        if not answer.ok:
            end = "\n".join((answer.stdout + answer.stderr).strip().splitlines()[-15:])
            raise ClusterError(f"Compose could not do '{arguments[0]}' with cluster '{self.name}':\n{end}")


def docker_clusters() -> Iterator[DockerCluster]:
    """The dockerised clusters that have containers, by name; nothing where no engine answers."""
    if process.find("docker") is None:
        return
    answer = _docker(["ps", "--all", "--format", f'{{{{.Label "{_PROJECT_LABEL}"}}}} {{{{.Image}}}}'], timeout_s=20)
    found: dict[str, str] = {}
    for line in answer.stdout.splitlines() if answer.ok else []:
        project, _, image = line.partition(" ")
        if project.startswith(_PREFIX) and image.startswith(image_tag("")):
            found[project.removeprefix(_PREFIX)] = image.removeprefix(image_tag(""))
    for name in sorted(found):
        yield DockerCluster(name, suite=found[name])


def _machine(record: Mapping[str, str]) -> Machine:
    labels = dict(part.partition("=")[::2] for part in record["Labels"].split(","))
    service, number = labels.get(_SERVICE_LABEL, ""), labels.get(_NUMBER_LABEL, "")
    status = record["Status"]
    state = record.get("State") or ("running" if status.startswith("Up") else "exited")
    return Machine(f"c{number}" if service == "c" else service, record["Names"], state, "(healthy)" in status)


def _docker(arguments: Sequence[str], *, stdin: str | None = None, timeout_s: float = 60) -> process.Result:
    return process.run(["docker", *arguments], timeout_s=timeout_s, stdin=stdin)


def _compose_command() -> list[str]:
    """Compose v2 is a plugin of docker, 1.29 a program of its own."""
    if process.run(["docker", "compose", "version"], timeout_s=30).ok:
        return ["docker", "compose"]
    if process.find("docker-compose"):
        return ["docker-compose"]
    raise MissingDependencyError(
        "Docker Compose is not installed", hint="Debian and Ubuntu: apt-get install docker-compose; elsewhere: Compose v2"
    )
