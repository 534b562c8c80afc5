"""What an agent does with the shop's tools: a client without a model, which starts the server as an agent's program would.

python demo.py
"""

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


async def sell(path: str) -> None:
    from mcp import Client, StdioServerParameters

    environment = {"SHOP_DB": path, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    server = StdioServerParameters(command=sys.executable, args=[str(HERE / "server.py")], env=environment)
    async with Client(server) as agent:

        async def call(tool: str, **arguments: Any) -> Any:
            result = await agent.call_tool(tool, arguments)
            if result.is_error:
                error = json.loads(result.content[0].text)
                return f"{error['code']}: {error['message']}"
            return result.structured_content

        tools = (await agent.list_tools()).tools
        print("tools:", ", ".join(tool.name for tool in tools))
        print("these change something:", ", ".join(t.name for t in tools if not t.annotations.read_only_hint))

        cheap = await call("items-list", filter={"cents": {"lt": 1000}}, order=["cents"])
        print("under 10 euros:", ", ".join(f"{item['name']} ({item['stock']})" for item in cheap["items"]))
        print("sold:", await call("shop-sell", customer="Ada", item="tea", pieces=2))
        print("too many:", await call("shop-sell", customer="Ada", item="tea", pieces=2))
        print("no number:", await call("shop-sell", customer="Ada", item="tea", pieces="two"))
        print("not for agents:", await call("items-delete", id=1))
        print("orders:", (await call("orders-list"))["items"])


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory, "shop.db"))
        os.environ["SHOP_DB"] = path
        from shop import Item, Order, db

        db.create_tables([Item, Order])
        Item.create(name="tea", cents=450, stock=3)
        Item.create(name="kettle", cents=3900, stock=1)
        asyncio.run(sell(path))
        db.close_engine()


if __name__ == "__main__":
    main()
