"""``python -m hpctrain.devcluster.simulate``: the simulated kernel and GPUs of one container (entry point).

Nodes of the dockerised cluster call it as root; ``hpctrain cluster fault --docker`` runs it inside them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hpctrain.devcluster.faults import fault_named
from hpctrain.devcluster.healing import REMEDIES
from hpctrain.devcluster.node_files import NodeFiles
from hpctrain.devcluster.simulated_node import LIBRARY, NodeKind
from hpctrain.errors import HpctrainError


def main(argv: Sequence[str] | None = None) -> int:
    """Make, break, heal or reboot the node; the exit code."""
    parser = argparse.ArgumentParser(prog="hpctrain.devcluster.simulate", description="A node's simulated kernel and GPUs.")
    parser.add_argument("verb", choices=("create", "break", "heal", "reboot"))
    parser.add_argument("directory", type=Path, help="where the node's files are")
    parser.add_argument("node")
    parser.add_argument("fault", nargs="?", default="", help="with 'break': which one")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--number", type=int, default=0, help="with 'break': which GPU or port")
    parser.add_argument("--until", default="", choices=("", *REMEDIES), help="with 'break': what mends it")
    parser.add_argument("--library", type=Path, help="with 'create': the simulated NVML")
    options = parser.parse_args(argv)
    node = NodeFiles(options.directory, options.node, NodeKind(gpus=options.gpus))
    try:
        if options.verb == "create":
            _create(node, options.directory, options.library)
        elif options.verb == "break":
            node.break_(fault_named(options.fault), options.number, options.until)
        elif options.verb == "heal":
            node.heal(reboot=True)
        else:
            node.remedy("reboot")
    except HpctrainError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _create(node: NodeFiles, directory: Path, library: Path | None) -> None:
    """A container that is started again keeps its faults, as a machine does."""
    if (directory / LIBRARY).exists():
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    node.create(library or directory.parent / LIBRARY)
    directory.chmod(0o755)


if __name__ == "__main__":
    sys.exit(main())
