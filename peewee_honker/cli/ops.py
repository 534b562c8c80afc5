"""`ops`: an application's operations: listed, described, called here or elsewhere; and what became of calls."""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from peewee_honker.cli.imported import imported
from peewee_honker.cli.listings import add_json
from peewee_honker.cli.opening import opened
from peewee_honker.cli.screen import Colour, CommandError, Screen, local_time, plain
from peewee_honker.cli.values import duration, json_value, number
from peewee_honker.events import HonkerEventTarget
from peewee_honker.operations import (
    Call,
    CallClient,
    CallGraphProjection,
    CallStatus,
    CallTree,
    Identity,
    OperationError,
    OperationRegistry,
    OperationType,
)
from peewee_honker.operations.errors import TIMEOUT
from peewee_honker.operations.openapi import openapi

__all__ = ["add_to"]

_VARIABLE = "PEEWEE_HONKER_REGISTRY"
_COLOURS: dict[CallStatus, Colour] = {
    CallStatus.PENDING: "dim",
    CallStatus.RUNNING: "cyan",
    CallStatus.COMPLETED: "green",
    CallStatus.FAILED: "red",
    CallStatus.ABORTED: "yellow",
}


def add_to(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("ops", parents=[common], help="the application's operations, and calls of them")
    actions = parser.add_subparsers(metavar="ACTION", title="actions", required=True)

    listing = actions.add_parser("list", parents=[common], help="the operations of a registry")
    _add_registry(listing)
    add_json(listing)
    listing.set_defaults(run=_list)

    describing = actions.add_parser("schema", parents=[common], help="the OpenAPI document, or one operation's contract")
    describing.add_argument("operation", metavar="OPERATION", nargs="?", help="for instance orders.find")
    _add_registry(describing)
    describing.set_defaults(run=_schema)

    _add_call(actions, common)

    graph = actions.add_parser(
        "calls",
        parents=[common],
        help="what became of calls, from a call graph",
        description="Calls in the graph of a CallGraphProjection, newest first; with REQUEST that one, and all that it has "
        "led to.",
    )
    graph.add_argument("request", metavar="REQUEST", nargs="?", help="a call's request id")
    graph.add_argument("--graph", metavar="NAME", default="calls", help="the graph (default: calls)")
    graph.add_argument("--status", choices=[each.value for each in CallStatus], help="only calls of this status")
    graph.add_argument("--operation", metavar="ID", help="only calls of this operation")
    graph.add_argument("--limit", metavar="N", type=number, default=50, help="how many at most (default: 50)")
    add_json(graph)
    graph.set_defaults(run=_calls)


def _add_registry(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--registry",
        metavar="MODULE:NAME",
        default=os.environ.get(_VARIABLE),
        help=f"the application's OperationRegistry, for instance shop.operations:registry (default: ${_VARIABLE})",
    )


def _add_call(actions: Any, common: argparse.ArgumentParser) -> None:
    calling = actions.add_parser(
        "call",
        parents=[common],
        help="call an operation",
        description="Calls an operation, here with the registry's handler, or --remote through the database file. Writes "
        "the answer as JSON; of a subscription each on a line, until Ctrl-C.",
    )
    calling.add_argument("operation", metavar="OPERATION", help="for instance orders.find")
    calling.add_argument(
        "input", metavar="INPUT", nargs="?", default="{}", help="JSON, or - for JSON from stdin (default: {})"
    )
    _add_registry(calling)
    calling.add_argument("--identity", metavar="ID", help="who calls")
    calling.add_argument(
        "--scope", metavar="SCOPE", action="append", default=[], help="that the identity has; may be repeated"
    )
    calling.add_argument("--trusted", action="store_true", help="do not look at access; not with --remote")
    calling.add_argument("--remote", action="store_true", help="by a CallHandler that runs on the database file")
    calling.add_argument(
        "--durable", action="store_true", help="with --remote: through the queue; the call waits for a handler"
    )
    calling.add_argument("--queue", metavar="NAME", default="calls", help="with --durable: the queue (default: calls)")
    calling.add_argument("--prefix", default="", help="with --remote: of the channels, where the handler's target has one")
    calling.add_argument(
        "--timeout", metavar="DURATION", type=duration, default=30.0, help="with --remote: for the answer (default: 30s)"
    )
    calling.add_argument("--subscribe", action="store_true", help="with --remote and no registry: it is a subscription")
    calling.add_argument("--count", metavar="N", type=number, help="of a subscription: end after so many answers")
    calling.set_defaults(run=_call)


def _registry(arguments: argparse.Namespace) -> OperationRegistry:
    if not arguments.registry:
        raise CommandError(f"which operations? Say --registry MODULE:NAME, or set {_VARIABLE}", 2)
    return imported(arguments.registry, OperationRegistry, "--registry", "shop.operations:registry")


def _list(arguments: argparse.Namespace, screen: Screen) -> int:
    registry = _registry(arguments)
    if arguments.json:
        screen.json([spec.to_json() for spec in registry.specs])
        return 0
    rows = [
        {
            "operation": spec.id,
            "type": spec.type.value,
            "version": spec.version,
            "handler": registry.has_handler(spec.id),
            "scopes": " ".join(spec.access_control.required_scopes) or None,
            "title": spec.title,
        }
        for spec in registry.specs
    ]
    screen.table(rows, "no operations")
    return 0


def _schema(arguments: argparse.Namespace, screen: Screen) -> int:
    registry = _registry(arguments)
    if arguments.operation is None:
        screen.json(openapi(registry))
        return 0
    try:
        screen.json(registry.spec(arguments.operation).to_json())
    except OperationError as error:
        raise _told(error) from None
    return 0


# Calling


def _call(arguments: argparse.Namespace, screen: Screen) -> int:
    if arguments.remote and arguments.trusted:
        raise CommandError("--trusted never travels: leave it out, or say --scope", 2)
    if arguments.scope and not arguments.identity:
        raise CommandError("whose scopes? Say --identity ID, too", 2)
    try:
        data = json_value(sys.stdin.read() if arguments.input == "-" else arguments.input)
    except argparse.ArgumentTypeError as error:
        raise CommandError(str(error).replace("payload", "input"), 2) from None
    identity = Identity(arguments.identity, tuple(arguments.scope)) if arguments.identity else None
    try:
        (_call_remotely if arguments.remote else _call_here)(arguments, screen, data, identity)
    except OperationError as error:
        raise _told(error, arguments.remote) from None
    return 0


def _call_here(arguments: argparse.Namespace, screen: Screen, data: Any, identity: Identity | None) -> None:
    registry, how = _registry(arguments), {"identity": identity, "trusted": arguments.trusted}
    if registry.spec(arguments.operation).type is not OperationType.SUBSCRIPTION:
        _write(screen, registry.execute_sync(arguments.operation, data, **how).data)
        return

    async def listen() -> None:
        responses: Any = registry.subscribe(arguments.operation, data, **how)
        left = arguments.count
        with _woken_by_signals(asyncio.get_running_loop()):
            try:
                while left is None or left > 0:
                    left = None if left is None else left - 1
                    _write(screen, (await anext(responses)).data, one_line=True)
            except StopAsyncIteration:
                pass
            finally:
                await responses.aclose()

    asyncio.run(listen())


@contextmanager
def _woken_by_signals(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let signals wake the loop: one that comes just before it waits would be handled when something else wakes it only."""
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        loop.add_reader(reader, reader.recv, 4096)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            loop.remove_reader(reader)


def _call_remotely(arguments: argparse.Namespace, screen: Screen, data: Any, identity: Identity | None) -> None:
    subscribes = arguments.subscribe
    if arguments.registry:
        subscribes = _registry(arguments).spec(arguments.operation).type is OperationType.SUBSCRIPTION
    with opened(arguments) as database:
        target = HonkerEventTarget(database, prefix=arguments.prefix)
        queue = {"database": database, "queue": arguments.queue} if arguments.durable else {}
        with closing(CallClient(target, **queue)) as client:
            if not subscribes:
                _write(screen, client.call(arguments.operation, data, timeout=arguments.timeout, identity=identity))
                return
            with client.subscribe(arguments.operation, data, identity=identity) as responses:
                for response in _at_most(arguments.count, iter(responses)):
                    _write(screen, response, one_line=True)


def _at_most(count: int | None, responses: Iterator[Any]) -> Iterator[Any]:
    """So many of them, without waiting for one more."""
    while count is None or count > 0:
        count = None if count is None else count - 1
        try:
            yield next(responses)
        except StopIteration:
            return


def _write(screen: Screen, value: Any, *, one_line: bool = False) -> None:
    try:
        text = json.dumps(value, ensure_ascii=False, indent=None if one_line else 2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CommandError(f"the answer has no form in JSON: {error}") from None
    screen.line(text)


def _told(error: OperationError, remote: bool = False) -> CommandError:
    text = f"{error.code}: {error.message}"
    if isinstance(error.details, list):
        told = [f"{each.get('path') or '/'} {each.get('message')}" for each in error.details if isinstance(each, dict)]
        text += f": {'; '.join(told)}" if told else ""
    elif error.details is not None:
        text += f": {json.dumps(error.details, ensure_ascii=False)}"
    if remote and error.code == TIMEOUT:
        text += " (does a CallHandler with this operation run on the file?)"
    return CommandError(text)


# What became of calls


def _calls(arguments: argparse.Namespace, screen: Screen) -> int:
    with opened(arguments) as database:
        try:
            graph = CallGraphProjection(database, graph=arguments.graph, create=False)
            if arguments.request is not None:
                return _show_tree(screen, graph.tree(arguments.request), as_json=arguments.json)
        except LookupError as error:
            raise CommandError(error.args[0]) from None
        calls = graph.calls(status=arguments.status, operation_id=arguments.operation, limit=arguments.limit).calls
    if arguments.json:
        screen.json([call.to_json() for call in calls])
        return 0
    rows = [
        {
            "requested": local_time(call.requested_at / 1000, "milliseconds"),
            "status": call.status.value,
            "operation": call.operation_id,
            "took": _took(call),
            "request": call.request_id,
            "by": call.parent_request_id,
        }
        for call in calls
    ]
    screen.table(rows, "no calls")
    return 0


def _show_tree(screen: Screen, tree: CallTree, *, as_json: bool) -> int:
    if as_json:
        screen.json(tree.to_json())
        return 0
    waiting = [(0, tree)]
    while waiting:
        depth, each = waiting.pop()
        call = each.call
        status = screen.coloured(f"{call.status.value:<9}", _COLOURS[call.status])
        error = f"  {plain(str(call.error.get('code')))}" if isinstance(call.error, dict) else ""
        took = _took(call) or "-"
        screen.line(f"{status}  {took:>12}  {'  ' * depth}{plain(call.operation_id)}  {plain(call.request_id)}{error}")
        waiting += [(depth + 1, child) for child in reversed(each.children)]
    return 0


def _took(call: Call) -> str | None:
    return None if call.duration is None else f"{call.duration:,.1f} ms"
