"""An audit trail that is exact: one row for each committed change, also when its writer is killed again and again.

python demo.py
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
CHANGES = 600


def main(directory: str) -> None:
    os.environ["AUDIT_DB"] = f"{directory}/bank.db"
    from models import Account, Audit, db

    db.create_tables([Account, Audit])
    random.seed(7)
    wanted, kills, deadline = 3 + CHANGES - CHANGES // 10, 0, time.monotonic() + 60
    auditor = subprocess.Popen([sys.executable, HERE / "auditor.py"])
    try:
        accounts = [Account.create(owner=name, cents=0) for name in ("Ada", "Grace", "Edsger")]
        for number in range(CHANGES):
            account = random.choice(accounts)
            account.cents += random.randrange(-500, 1000)
            with db.atomic() as transaction:
                account.save()
                if number % 10 == 0:
                    transaction.rollback()  # never happened, so no row of it
        while (rows := Audit.select().count()) < wanted and time.monotonic() < deadline:
            if rows > 250 * (kills + 1):
                auditor.send_signal(signal.SIGKILL)  # wherever it is in its work
                auditor.wait()
                auditor, kills = subprocess.Popen([sys.executable, HERE / "auditor.py"]), kills + 1
            time.sleep(0.001)
        rows, events = Audit.select().count(), Audit.select(Audit.event_id).distinct().count()
        print(f"{wanted} changes committed, {CHANGES // 10} rolled back; the auditor was killed {kills} times")
        print(f"{rows} rows in the trail, of {events} events")
        if not rows == events == wanted:
            sys.exit("the trail is not exact")
        for row in Audit.select().order_by(Audit.id.desc()).limit(3):
            print(f"  {row.operation} of account {row.key}: {row.changes}")
    finally:
        auditor.terminate()
        auditor.wait()
        db.close_engine()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(made)
