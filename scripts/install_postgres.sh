#!/bin/sh
# Install PostgreSQL's server programs, unless they are there: the tests start a server of their own with them.
set -eu

if command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
    exit 0
fi

refuse() {
    echo "PostgreSQL is needed by the tests and cannot be installed here: $1." >&2
    echo "Install PostgreSQL 14 or newer, so that initdb is on PATH or in /usr/lib/postgresql/*/bin." >&2
    exit 1
}

command -v apt-get >/dev/null 2>&1 || refuse "this is not Debian or Ubuntu (no apt-get)"
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || refuse "not root, and no sudo"
    as_root="sudo -n"
fi
echo "Installing PostgreSQL (Debian's package postgresql) for the tests ..." >&2
$as_root apt-get update -qq || refuse "apt-get update failed"
# Without create_main_cluster the package would also start a server of its own.
$as_root mkdir -p /etc/postgresql-common
[ -e /etc/postgresql-common/createcluster.conf ] ||
    echo "create_main_cluster = false" | $as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >/dev/null ||
    refuse "apt-get install postgresql failed"
