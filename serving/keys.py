"""API keys on the command line; a key is printed once and stored as its digest only.

    python -m serving.keys create --client NAME --scopes predict,outcomes [--production-traffic]
    python -m serving.keys create --given --client NAME --scopes ...    # the key in ONTIME_API_KEY
    python -m serving.keys list
    python -m serving.keys revoke KEY_ID

To rotate a key, create a second one for the same client, change it there, and revoke the first.
"""

import argparse

from ontime.settings import Settings
from ontime.storage.api_keys import SCOPES, ApiKeys
from ontime.storage.prediction_log import PredictionLog


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "serving.keys", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    create = commands.add_parser("create")
    create.set_defaults(command="create")
    create.add_argument("--client", required=True, help="lower-case letters, digits and hyphens")
    create.add_argument("--scopes", required=True, help=f"some of {','.join(SCOPES)}")
    create.add_argument(
        "--production-traffic", action="store_true", help="monitoring counts its predictions"
    )
    create.add_argument(
        "--given", action="store_true", help="the key is in ONTIME_API_KEY; it is not printed"
    )
    create.add_argument("--requests-per-s", type=int, default=100, help="per process of the API")
    create.add_argument("--max-concurrent", type=int, default=32, help="per process of the API")
    commands.add_parser("list").set_defaults(command="list")
    revoke = commands.add_parser("revoke")
    revoke.set_defaults(command="revoke")
    revoke.add_argument("key_id")
    chosen = parser.parse_args(arguments)
    settings = Settings()
    log = PredictionLog(settings.prediction_db_url)
    log.migrate()
    keys = ApiKeys(log)
    try:
        if chosen.command == "create":
            limits = {
                "production_traffic": chosen.production_traffic,
                "requests_per_s": chosen.requests_per_s,
                "max_concurrent": chosen.max_concurrent,
            }
            scopes = chosen.scopes.split(",")
            if not chosen.given:
                print(keys.create(chosen.client, scopes, **limits))
            elif settings.api_key:
                keys.add(settings.api_key, chosen.client, scopes, **limits)
            else:
                raise ValueError("with --given the key is in ONTIME_API_KEY, and it is empty")
        elif chosen.command == "revoke":
            keys.revoke(chosen.key_id)
        else:
            print_keys(keys)
    except (LookupError, ValueError) as error:
        parser.error(str(error))
    finally:
        log.close()


def print_keys(keys: ApiKeys) -> None:
    for key in keys.all():
        until = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else "valid"
        print(
            f"{key.key_id}  {key.client:<20} {','.join(sorted(key.scopes)):<32} "
            f"{'production' if key.production_traffic else 'not counted':<12} "
            f"{key.requests_per_s}/s, {key.max_concurrent} at once  "
            f"created {key.created_at:%Y-%m-%d %H:%M}, {until}"
        )


if __name__ == "__main__":
    main()
