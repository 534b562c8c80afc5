"""A map on which airports appear the moment another process commits them.

python app.py [--port 5000] [--import]
"""

import argparse
import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path

from flask import Flask, jsonify, render_template
from models import Airport, db
from werkzeug.serving import make_server

from peewee_honker.contrib.flask import events_blueprint
from peewee_honker.contrib.sse import Feed, event_data


def told(event):
    """What the page gets: the event, and when it was sent, by the same clock that the commit was timed with."""
    return {**event_data(event), "sent": time.time()}


feed = Feed(db, stream="airport", data=told, clients=50)
app = Flask(__name__)
app.register_blueprint(events_blueprint(feed, "/events"))


@app.get("/")
def page():
    return render_template("index.html")


@app.get("/state")
def state():
    """All airports, and the place in the stream behind which the page goes on: taken first, so that none is missed."""
    position = feed.position
    fields = (Airport.ident, Airport.name, Airport.country, Airport.latitude, Airport.longitude)
    with db.connection_context():
        return jsonify(position=position, airports=list(Airport.select(*fields).tuples()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--import", dest="imports", action="store_true", help="start importer.py beside")
    arguments = parser.parse_args()

    db.create_tables([Airport])
    db.close()
    server = make_server("127.0.0.1", arguments.port, app, threaded=True)
    with contextlib.ExitStack() as stack:
        stack.callback(db.close_engine)
        stack.callback(feed.close)
        if arguments.imports:
            importer = subprocess.Popen([sys.executable, Path(__file__).with_name("importer.py")])
            stack.callback(importer.wait)
            stack.callback(importer.terminate)
        print(f"http://127.0.0.1:{server.port}/", flush=True)
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        with contextlib.suppress(KeyboardInterrupt):
            serving.join()


if __name__ == "__main__":
    main()
