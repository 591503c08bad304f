"""Creates each service's database and role in Postgres; run once as a task inside the network.

Its text is the command of the task, because the image does not contain infra. Reads the address
and the passwords from the task's variables. Another run sets the passwords again.
"""

import os

import psycopg
from psycopg import sql

names = os.environ["DATABASES"].split(",")
with psycopg.connect(
    dbname="postgres",
    host=os.environ["DB_HOST"],
    user=os.environ["DB_USER"],
    password=os.environ["DB_PASSWORD"],
    sslmode="require",
    autocommit=True,
) as database:
    for name in names:
        role = sql.Identifier(name)
        password = sql.Literal(os.environ[f"{name.upper()}_PASSWORD"])
        if not database.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone():
            database.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
        database.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, password))
        if not database.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
            # The administrator of RDS is no superuser: it creates databases for its own roles only.
            database.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(role))
            database.execute(sql.SQL("CREATE DATABASE {0} OWNER {0}").format(role))
        database.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(role))
        print(f"database {name} is ready")
