"""Sells: `python sell.py 20` writes so many orders, each with its event."""

import sys

from shop import MODELS, Customer, Order, db

db.create_tables(MODELS)
for number in range(int(sys.argv[1])):
    with db.atomic():
        customer, _ = Customer.get_or_create(name=f"customer {number % 7}")
        order = Order.create(customer=customer, total=number)
    print("sold", order.id)
db.close()
