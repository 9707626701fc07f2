#!/usr/bin/env bash
# Installs the Debian packages that the product and its tests need and that are missing. Services of the packages are not
# started: we run our own, in folders of our own. Does nothing, and needs no root, when all are there.
set -euo pipefail
packages=(containerd runc busybox-static nftables iproute2 e2fsprogs postgresql)
missing=()
for package in "${packages[@]}"; do
	[ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
[ "$(id -u)" = 0 ] || { echo "install-packages: root is needed to install: ${missing[*]}" >&2; exit 1; }
echo "installing: ${missing[*]}"
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod +x $policy
	trap 'rm -f $policy' EXIT
fi
# A database of the machine that nobody asked for is not made either.
if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
	mkdir -p /etc/postgresql-common
	echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-confold "${missing[@]}" >/dev/null
