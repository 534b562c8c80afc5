"""A shop of several processes: orders, a packing worker, e-mails that are retried, and one that becomes a dead letter.

    python demo.py

Needs aiosmtpd, for a mail server on this machine that keeps what it is sent.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller

HERE = Path(__file__).parent


class MailServer:
    """Takes e-mails. It is busy now and then, and knows nobody at nowhere.example."""

    def __init__(self) -> None:
        self.taken: dict[str, Any] = {}
        self.asked = 0

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:  # noqa: N802
        if address.endswith("@nowhere.example"):
            return "550 nobody here of that name"
        self.asked += 1
        if self.asked % 2:
            return "451 busy, come back later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        self.taken[envelope.rcpt_tos[0]] = envelope.content
        return "250 OK"


@contextlib.contextmanager
def process(script: str) -> Iterator[None]:
    """One of the shop's processes, ended with the block."""
    running = subprocess.Popen([sys.executable, HERE / script], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        running.terminate()
        running.wait()


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        if time.monotonic() > deadline:
            sys.exit("this took too long")
        time.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def main(directory: str) -> None:
    os.environ["SHOP_DB"] = f"{directory}/shop.db"
    os.environ["SMTP_PORT"] = str(free_port())
    from models import Order, Product, SoldOutError, bus, db

    db.create_tables([Product, Order])
    tea = Product.create(name="tea", stock=4)
    mail = MailServer()
    server = Controller(mail, hostname="127.0.0.1", port=int(os.environ["SMTP_PORT"]))
    server.start()
    try:
        for name, email in (
            ("Ada", "ada@example.org"),
            ("Grace", "grace@example.org"),
            ("Nobody", "x@nowhere.example"),
            ("Edsger", "edsger@example.org"),
            ("Late", "late@example.org"),
        ):
            try:
                with db.atomic():  # the order, its event and the packer's job: all or nothing
                    order = Order.create(customer=name, email=email, product=tea, total="3.50")
                    db.queue("packing").enqueue({"order": order.id})
            except SoldOutError as error:
                print(f"{name}: {error}")

        with process("packer.py"), process("mail.py"):  # started after the orders: they find what waits for them
            until(lambda: Order.select().where(Order.state == "packed").count() == 4)
            until(lambda: len(mail.taken) == 3 and bus.dead_letters())
        print("packed:", ", ".join(order.customer for order in Order.select().order_by(Order.id)))
        print("e-mails taken:", ", ".join(sorted(mail.taken)))
        for letter in bus.dead_letters():
            print(f"dead letter: {letter.event.payload['email']} after {letter.attempts} attempts: {letter.error}")
    finally:
        server.stop()
        db.close_engine()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(made)
