#!/usr/bin/env bash
# Installs Python packages into the image's environment, in steps that Docker caches one by one.
#   install-python.sh dependencies EXTRAS | pyslurm | hpctrain
set -euo pipefail
cd /requirements

# The requirements of setup.cfg for these extras, without torch where the distribution has it.
requirements() {
    python3 - "$1" <<'PYTHON'
import configparser, importlib.util, sys
config = configparser.RawConfigParser()
config.read("setup.cfg")
extras = config["options.extras_require"]
lines = config["options"]["install_requires"].split("\n")
for extra in sys.argv[1].split(","):
    lines += extras.get(extra, "").split("\n")
has_torch = importlib.util.find_spec("torch") is not None
print("\n".join(line for line in lines if line.strip() and not (has_torch and line.startswith("torch>"))))
PYTHON
}

# The pinned versions, but for what the distribution's torch wants to the letter.
constraints() {
    python3 - <<'PYTHON'
import importlib.metadata, importlib.util, re
free = set()
if importlib.util.find_spec("torch"):
    free.add("torch")
    for line in importlib.metadata.requires("torch") or ():
        if match := re.match(r"([\w.-]+)\s*\(?==", line):
            free.add(re.sub(r"[-_.]+", "-", match[1]).lower())
for line in open("constraints.txt"):
    name = re.split(r"[=<>; \[]", line.strip(), maxsplit=1)[0].lower()
    if name not in free:
        print(line, end="")
PYTHON
}

case $1 in
    dependencies)
        requirements "$2" >requirements.txt
        constraints >chosen.txt
        pip install --quiet --find-links /wheels --constraint chosen.txt "setuptools>=70.1" wheel --requirement requirements.txt
        ;;
    pyslurm)
        if compgen -G '/pyslurm-wheels/*.whl' >/dev/null; then pip install --quiet --no-index --no-deps /pyslurm-wheels/*.whl; fi
        ;;
    hpctrain)
        pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /built /source
        pip install --quiet --no-deps --no-index /built/hpctrain-*.whl
        ;;
    *)
        echo "usage: install-python.sh dependencies EXTRAS | pyslurm | hpctrain" >&2
        exit 2
        ;;
esac
