#!/bin/sh
# Builds pyslurm's wheel from its pinned sdist against the Slurm that this Debian packages.
#
#   build-wheel.sh OUTDIR
#
# Needs libslurm-dev slurm-wlm-basic-plugins python3-dev python3-venv gcc libc6-dev, and patch for Slurm 24.11.
# Where this pyslurm cannot be built for the installed Slurm (bookworm's 22.05) it says so, leaves OUTDIR empty and
# succeeds: the image is then made without pyslurm, and hpctrain uses Slurm's commands.
set -eu

VERSION=25.11.2
SHA256=6e0e4bc639ea3177591b102b77c1dd8df55a9e411ac42ef339a4adb3908cca34

[ $# -eq 1 ] || { printf 'usage: %s OUTDIR\n' "$0" >&2; exit 2; }
here=$(dirname "$(readlink -f "$0")")
mkdir -p "$1"
out=$(readlink -f "$1")

slurm=$(dpkg-query -W -f '${Version}' libslurm-dev | cut -d. -f1,2)
if [ ! -d "$here/include-$slurm" ]; then
    printf 'pyslurm: not built: pyslurm %s does not compile against Slurm %s (see README.md beside this script);' \
        "$VERSION" "$slurm"
    printf ' hpctrain will use the commands of Slurm\n'
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

printf 'pyslurm==%s --hash=sha256:%s\n' "$VERSION" "$SHA256" > requirements.txt
python3 -m venv venv
# Not ":all:", which would compile Cython as well.
venv/bin/pip -q download --no-deps --no-binary pyslurm --require-hashes -r requirements.txt
tar xf "pyslurm-$VERSION.tar.gz"
cd "pyslurm-$VERSION"

# The patch has no context lines: it fits this sdist alone, which the hash holds fast.
patch_file=$here/pyslurm-$VERSION-slurm-$slurm.patch
if [ -f "$patch_file" ]; then
    patch -p1 < "$patch_file"
fi

SLURM_INCLUDE_DIR=$here/include-$slurm
SLURM_LIB_DIR=/usr/lib/$(gcc -print-multiarch)
PYSLURM_BUILD_JOBS=$(nproc)
export SLURM_INCLUDE_DIR SLURM_LIB_DIR PYSLURM_BUILD_JOBS
CFLAGS=-O1 LDFLAGS=-s ../venv/bin/pip -q wheel --no-deps -w "$out" .
ls -l "$out"
