#!/bin/sh
# Sent to a node and run there by 'hpctrain fleet install-health': ACTION ROOT DIRECTORY PYTHON ID STAMP.
#
# ROOT/versions/ID   one version, whole: what is under a name never changes, and is made under another name first
# ROOT/current       a link to the version in use; replacing it by a rename is the only step that changes what Slurm runs
# ROOT/previous      a link to the one before
# DIRECTORY/FILE     links to ROOT/current/FILE: the paths that slurm.conf names
#
# Killed anywhere, it leaves the old version in use or the new one; what is left of it is removed the next time.
set -eu
umask 022
action=$1 root=$2 directory=$3 python=$4 id=${5:-} stamp=${6:-}
FILES='prolog.sh epilog.sh health_program.sh reboot_program.sh health.env health.json'
KEPT=3

# fail CODE TEXT: our codes are those of hpctrain/fleet/install.py.
fail() {
    echo "$2" >&2
    exit "$1"
}

# name_of LINK: the version that a link leads to, or nothing.
name_of() {
    link=$(readlink -- "$1" 2>/dev/null) || link=''
    echo "${link##*/}"
}

# point LINK VERSION: lead a link to a version, in one step.
point() {
    ln -sfn -- "versions/$2" "$root/.$1.new"
    mv -fT -- "$root/.$1.new" "$root/$1"
}

# verify DIRECTORY: every file of the version is there and unchanged.
verify() { (cd -- "$1" && sha256sum --check --quiet --strict MANIFEST) >/dev/null 2>&1; }

python_version() {
    "$python" -I -c 'import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

hold() {
    [ -w "$root" ] || fail 77 "you may not write to $root: use --sudo, or log in as root"
    exec 9>"$root/.lock"
    flock -n 9 || fail 75 "another installation runs on this node"
}

# ---------------------------------------------------------------- status: one 'key=value' a line

status() {
    echo "current=$(name_of "$root/current")"
    echo "previous=$(name_of "$root/previous")"
    echo "python=$(python_version || true)"
    if [ -d "$root/current/" ]; then
        if [ -r "$root/current/MANIFEST" ]; then
            echo "manifest=$(sha256sum <"$root/current/MANIFEST" | cut -c 1-64)"
            (cd -- "$root/current/" && sha256sum --check --strict MANIFEST 2>/dev/null) |
                sed -n 's/^\(.*\): FAILED.*$/changed=\1/p'
        fi
        if [ -r "$root/current/health.json" ]; then
            echo "config=$(sha256sum <"$root/current/health.json" | cut -c 1-64)"
        fi
    fi
    for file in $FILES; do
        if [ "$(readlink -- "$directory/$file" 2>/dev/null || true)" != "$root/current/$file" ]; then
            if [ -e "$directory/$file" ] || [ -L "$directory/$file" ]; then echo "foreign=$file"; else echo "unlinked=$file"; fi
        fi
    done
}

# ---------------------------------------------------------------- install

unpack() {
    tar -xz --no-same-owner -C "$new" -f - || fail 74 "the package did not arrive whole"
    verify "$new" || fail 74 "the package did not arrive whole"
    version=$(python_version) || fail 76 "$python there is ${version:-not to be found}; 3.10 or newer is needed: name one with --python"
    # Not an environment of somebody's, which may go away.
    python=$("$python" -I -c 'import sys; print(getattr(sys, "_base_executable", "") or sys.executable)')
    # An environment without pip: these files are what 'python -m venv --without-pip' makes, without needing that module.
    mkdir -p -- "$new/bin" "$new/lib/python$version"
    ln -s -- "$python" "$new/bin/python"
    ln -s -- ../../site "$new/lib/python$version/site-packages"
    printf 'home = %s\ninclude-system-site-packages = true\n' "${python%/*}" >"$new/pyvenv.cfg"
    chmod 755 "$new"
    said=$("$new/bin/python" -I -B -m hpctrain.fleet.on_node version 2>&1) ||
        fail 76 "the package does not run there: $(echo "$said" | tail -n 1)"
    sync -f -- "$new"
}

# place: give the unpacked version its name. One of this name that was damaged is mended file by file.
place() {
    if [ ! -e "$root/versions/$id" ]; then
        mv -T -- "$new" "$root/versions/$id"
    elif ! verify "$root/versions/$id"; then
        (cd -- "$new" && find . -type f -o -type l) | while IFS= read -r file; do
            cmp -s -- "$new/$file" "$root/versions/$id/$file" && continue
            mkdir -p -- "$root/versions/$id/${file%/*}"
            mv -fT -- "$new/$file" "$root/versions/$id/$file"
        done
    fi
    sync -f -- "$root"
}

# adopt: files that somebody put at the linked paths become a version of their own, so that one step leads away from them and
# one step back.
adopt() {
    found=''
    for file in $FILES; do
        if [ -f "$directory/$file" ] && [ ! -L "$directory/$file" ]; then found=1; fi
    done
    [ -n "$found" ] || return 0
    before=$(mktemp -d "$root/versions/.new.XXXXXXXX")
    for file in $FILES; do
        if [ -f "$directory/$file" ]; then cp -p -- "$directory/$file" "$before/$file"; fi
    done
    chmod 755 "$before"
    name=before-$stamp
    # One that was cut off in this very second is whole, and may be in use.
    if [ -e "$root/versions/$name" ]; then name=$name.$$; fi
    mv -T -- "$before" "$root/versions/$name"
    if [ ! -d "$root/current/" ]; then point current "$name"; fi
    connect_links
}

# connect_links: have the paths that slurm.conf names lead to the version in use.
connect_links() {
    for file in $FILES; do
        if [ "$(readlink -- "$directory/$file" 2>/dev/null || true)" != "$root/current/$file" ]; then
            ln -sfn -- "$root/current/$file" "$directory/.$file.new"
            mv -fT -- "$directory/.$file.new" "$directory/$file"
        fi
    done
}

prune() {
    now=$(name_of "$root/current") back=$(name_of "$root/previous") count=0
    # shellcheck disable=SC2012 # our own names, without white space
    ls -1t -- "$root/versions" | while IFS= read -r old; do
        if [ "$old" = "$now" ] || [ "$old" = "$back" ]; then continue; fi
        count=$((count + 1))
        if [ "$count" -gt "$KEPT" ]; then rm -rf -- "$root/versions/$old" || true; fi # a check that runs may write there
    done
}

install_version() {
    mkdir -p -- "$root/versions" "$directory" 2>/dev/null || fail 77 "you may not make $root: use --sudo, or log in as root"
    hold
    rm -rf -- "$root/versions/".new.* || true
    new=$(mktemp -d "$root/versions/.new.XXXXXXXX")
    trap 'rm -rf -- "$new"' EXIT
    trap 'exit 1' HUP INT TERM
    unpack
    place
    adopt
    now=$(name_of "$root/current")
    if [ -n "$now" ] && [ "$now" != "$id" ]; then point previous "$now"; fi
    point current "$id"
    connect_links
    prune
    sync -f -- "$root"
}

# ---------------------------------------------------------------- rollback

rollback() {
    hold
    back=$(name_of "$root/previous")
    now=$(name_of "$root/current")
    if [ -z "$back" ] || [ "$back" = "$now" ] || [ ! -d "$root/versions/$back" ]; then
        fail 44 "there is no version to go back to"
    fi
    point current "$back"
    if [ -n "$now" ]; then point previous "$now"; fi
    sync -f -- "$root"
}

case $action in
    status) ;;
    install) install_version ;;
    rollback)
        [ -d "$root" ] || fail 44 "there is no version to go back to"
        rollback
        ;;
    *) fail 64 "unknown action: $action" ;;
esac
status
