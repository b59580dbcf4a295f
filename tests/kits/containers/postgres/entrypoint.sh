#!/bin/sh
# What the official image does with POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB at its first
# start: a cluster with this superuser, this database, and passwords for whoever comes by network.
set -eu
bin=$(echo /usr/lib/postgresql/*/bin)
data=/var/lib/postgresql/data
if [ ! -s $data/PG_VERSION ]; then
    printf '%s' "$POSTGRES_PASSWORD" >/tmp/password
    "$bin/initdb" --pgdata $data --username "$POSTGRES_USER" --pwfile /tmp/password --auth-local trust
    rm /tmp/password
    echo "CREATE DATABASE $POSTGRES_DB" | "$bin/postgres" --single -D $data postgres
    echo "host all all all scram-sha-256" >>$data/pg_hba.conf
fi
exec "$bin/postgres" -D $data -c listen_addresses='*' -c unix_socket_directories=/run/postgresql
