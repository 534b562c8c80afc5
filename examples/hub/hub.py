"""The hub: who has an API key of the system database joins it. Until Ctrl-C or SIGTERM."""

import os

from peewee_honker import HonkerDatabase
from peewee_honker.hub import ApiKeyAuthentication, Hub
from peewee_honker.storage import ApiKeys, create_system_database

FOLDER = os.environ["HUB_FOLDER"]

system = create_system_database(f"{FOLDER}/system.db")
events = HonkerDatabase(f"{FOLDER}/hub.db")
hub = Hub(events, port=int(os.environ["HUB_PORT"]), authenticate=ApiKeyAuthentication(ApiKeys(system)))

if __name__ == "__main__":
    hub.run()
    events.close_engine()
    system.close_engine()
