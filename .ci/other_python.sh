#!/usr/bin/env bash
# The fast half of the tests on another Python: Debian trixie's 3.13, with the newest of every package (no constraints).
#
#     .ci/other_python.sh [FOLDER] [PYTEST ARGUMENTS]
#
# Builds Debian in FOLDER (build/trixie) by debootstrap, installs dlsim there with its extra `test`, and runs `pytest -m "not
# slow"`, or with the arguments given.  Needs root and two GB; `.ci/run` leaves it out for its time.
# A FOLDER that holds Debian already is used again, with the checkout as it is now.  What the host's network needs comes along:
#
#     DEBIAN_MIRROR        where packages are taken from (http://deb.debian.org/debian)
#     DEBIAN_SUITE         another release than trixie
#     PIP_*, *_proxy       as pip reads them; a file that PIP_CERT or SSL_CERT_FILE names is copied
#     OTHER_PYTHON_FILES   further files and folders to copy to the same place, with spaces between (/etc/pip.conf ...)
set -euo pipefail
cd "$(dirname "$0")/.."

root="$(realpath -m "${1:-build/trixie}")"
shift $(($# > 0))
if [ "$(id -u)" != 0 ]; then
    echo "other_python: must be run as root, which debootstrap and chroot need" >&2
    exit 2
fi
if ! command -v debootstrap > /dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap > /dev/null
fi
if [ ! -x "$root/usr/bin/python3" ]; then
    mkdir -p "$root"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates,git,procps,dataset-fashion-mnist \
        "${DEBIAN_SUITE:-trixie}" "$root" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
fi

copies=(/etc/resolv.conf)
for file in "${PIP_CERT:-}" "${SSL_CERT_FILE:-}" ${OTHER_PYTHON_FILES:-}; do
    if [ -e "$file" ]; then copies+=("$file"); fi
done
for file in "${copies[@]}"; do
    mkdir -p "$root$(dirname "$file")"
    cp -rLT "$file" "$root$file"
done
kept=(HOME=/root LANG=C.UTF-8 PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin)
while IFS= read -r line; do kept+=("$line"); done < <(env | grep -E '^(PIP_[A-Z_]+|SSL_CERT_FILE|[a-zA-Z]+_(proxy|PROXY))=')

# The checkout as it is, without what git ignores; files that are gone from it go there too.
find "$root/checkout" -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} + 2> /dev/null || mkdir -p "$root/checkout"
git ls-files -co --exclude-standard -z | xargs -0 sh -c 'for file; do [ ! -e "$file" ] || printf "%s\0" "$file"; done' sh \
    | tar -c --null -T - | tar -x -C "$root/checkout"

# Mounts of its own, which end with it.
exec unshare --mount --pid --fork --kill-child env -i "${kept[@]}" sh -c '
    set -eu
    root="$1" && shift
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    exec chroot "$root" sh -euc "
        cd /checkout
        [ -x .venv/bin/python ] || python3 -m venv .venv
        .venv/bin/pip install -q --upgrade --upgrade-strategy eager -e \".[test]\"
        .venv/bin/python -c \"import sys, jax; print(\\\"Python\\\", sys.version.split()[0], \\\"jax\\\", jax.__version__)\"
        if [ \$# = 0 ]; then set -- -m \"not slow\"; fi
        exec .venv/bin/python -m pytest \"\$@\"
    " sh "$@"
' sh "$root" "$@"
