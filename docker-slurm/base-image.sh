#!/usr/bin/env bash
# Sees to it that the base image debian:SUITE-slim is there: pulled where a registry can be reached, otherwise made from
# the distribution's packages by debootstrap (as root).
#   base-image.sh SUITE
set -euo pipefail
suite=${1:?usage: base-image.sh SUITE}
tag=debian:$suite-slim

die() {
    printf 'error: %s\n' "$1" >&2
    printf 'hint:  %s\n' "${@:2}" >&2
    exit 1
}

docker image inspect "$tag" >/dev/null 2>&1 && exit 0
if timeout 120 docker pull --quiet "$tag" >/dev/null 2>&1; then exit 0; fi

echo "==> No registry gives $tag: making it with debootstrap"
PATH=$PATH:/usr/sbin:/sbin
as_root=()
((EUID == 0)) || as_root=(sudo -n)
command -v debootstrap >/dev/null ||
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends debootstrap >/dev/null ||
    die "there is no $tag and no debootstrap" "install debootstrap, or pull $tag on a machine that can and load it here"

work=$(mktemp -d)
trap '"${as_root[@]}" rm -rf -- "$work"' EXIT
chmod 755 "$work"
# An older debootstrap does not know the name of a newer suite; they are all made as the unstable one is.
script=/usr/share/debootstrap/scripts/$suite
[[ -e $script ]] || script=/usr/share/debootstrap/scripts/sid
# shellcheck disable=SC2016 # apt's own variable
mirror=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep '/debian/*$' | head -n 1 || true)
"${as_root[@]}" debootstrap --variant=minbase "$suite" "$work/root" "$mirror" "$script" >"$work/log" 2>&1 || {
    tail -n 20 "$work/log" >&2
    die "debootstrap could not make $suite" "the end of what it said is above"
}
"${as_root[@]}" rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/*
"${as_root[@]}" tar -C "$work/root" --numeric-owner --one-file-system -c . | docker import --change 'CMD ["bash"]' - "$tag" >/dev/null
echo "==> $tag is there"
