"""The process that writes to customers: an outbox that is the stream of orders itself.

An order and the event that an e-mail is due commit together: none is due for an order that was taken back, and none is
forgotten, as the event stays until the SMTP server has taken the e-mail. It may be sent twice if this process dies between
the server's answer and the note of it; so it carries the event's id as Message-ID.
"""

import os
import smtplib
from email.message import EmailMessage
from typing import Any

from models import Order, bus, orders

PORT = int(os.environ["SMTP_PORT"])


@orders.saved.connect
def write(_sender: type[Order], event: Any) -> None:
    if event.operation != "insert":
        return
    message = EmailMessage()
    message["From"] = "shop@example.org"
    message["To"] = event.payload["email"]
    message["Subject"] = f"Your order {event.id}"
    message["Message-ID"] = f"<{event.event_id}@example.org>"
    message.set_content(f"Dear {event.payload['customer']}, we have it.")
    with smtplib.SMTP("127.0.0.1", PORT, timeout=5) as server:
        server.send_message(message)  # what it raises is tried again, and at last becomes a dead letter


bus.run()  # until Ctrl-C or SIGTERM
