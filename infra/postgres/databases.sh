#!/bin/bash
# Runs once, on an empty volume: one role and one database per service, closed to the other roles.
# psql reads the passwords from its environment: arguments are in the list of processes.
set -euo pipefail

make_database() { # make_database NAME VARIABLE_WITH_ITS_PASSWORD
    psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
        --set name="$1" <<SQL
\\getenv password $2
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
}

make_database mlflow MLFLOW_DB_PASSWORD
make_database prefect PREFECT_DB_PASSWORD
make_database feast FEAST_DB_PASSWORD
make_database ontime LOG_DB_PASSWORD
