"""What this machine has to pass in so that the images of the other Debian suites can be built."""

from __future__ import annotations

import os
import sys
import tempfile

from hpctrain import process
from hpctrain.devcluster.docker_image import APT_VARIABLE, WHEELS_VARIABLE, build_image
from tests.source_tree import ROOT


def suite_image(suite: str) -> str:
    """Build the image of a suite, where there is none; its tag."""
    with tempfile.TemporaryDirectory(prefix="hpctrain-wheels-") as wheels:
        env = dict(os.environ)
        if suite == "forky":
            # A testing suite's lists may be older than they say they may be.
            env[APT_VARIABLE] = 'Acquire::Check-Valid-Until "false";'
        if suite == "bookworm" and sys.version_info[:2] == (3, 11):
            # Its own torch is too old, and the image's pip could take one with accelerator libraries of several GB.
            pinned = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels, pinned]
            assert process.run(pip, timeout_s=900).ok
            env[WHEELS_VARIABLE] = wheels
        return build_image(suite, env=env)
