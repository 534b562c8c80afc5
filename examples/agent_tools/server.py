"""The shop's operations as tools, for an agent that starts this program:

{"mcpServers": {"shop": {"command": "python", "args": ["/path/to/examples/agent_tools/server.py"]}}}
"""

from shop import Item, Order, db, registry

from peewee_honker.contrib.mcp import serve_stdio
from peewee_honker.operations import Identity

# It sees everything and sells. It changes no prices, and deletes nothing.
AGENT = Identity("sales agent", scopes=("items:read", "orders:read", "shop:sell"))
INSTRUCTIONS = "A small shop. Prices are in euro cents. Look an item up by items-list before you sell it."

if __name__ == "__main__":
    db.create_tables([Item, Order])
    serve_stdio(registry, identity=AGENT, name="shop", instructions=INSTRUCTIONS)
    db.close_engine()
