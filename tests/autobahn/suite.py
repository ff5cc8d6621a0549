"""The cases of the Autobahn test suite against a WebSocket server, and a server that echoes.

    suite.py echo                      serves on a port of its own, and prints it
    suite.py run URL [--without 9 12] [--messages 100]
                                       prints one line a case: its id, its outcome, that of its closing handshake

The suite on PyPI is in Python 2. Its cases are made Python 3 with fissix, once, beside where they are installed;
what drives them here stands in for its own fuzzing client. A string of theirs is bytes: Latin-1, in both directions.
"""

import argparse
import binascii
import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys
import types

from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from twisted.internet import defer, reactor, task

HEADERS = {}


class Echo(WebSocketServerProtocol):
    def onMessage(self, payload, isBinary):
        self.sendMessage(payload, isBinary)


def echo():
    factory = WebSocketServerFactory()
    factory.protocol = Echo

    def accept(offers):
        deflate = (offer for offer in offers if isinstance(offer, PerMessageDeflateOffer))
        return next(map(PerMessageDeflateOfferAccept, deflate), None)

    factory.setProtocolOptions(failByDrop=False, perMessageCompressionAccept=accept)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    print(port.getHost().port, flush=True)
    reactor.run()


def to_bytes(text):
    return text.encode("latin-1") if isinstance(text, str) else text


def comparable(it):
    """Lists and tuples alike, and strings as the bytes that they are."""
    if isinstance(it, (list, tuple)):
        return [comparable(member) for member in it]
    return to_bytes(it)


def load_cases():
    """The suite's cases, in Python 3."""
    installed = pathlib.Path(importlib.util.find_spec("autobahntestsuite").origin).parent
    port = installed.parent / "autobahntestsuite_3"
    if not (port / "case").exists():
        made = port / "made"
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(installed / "case", made / "case")
        subprocess.run(
            [sys.executable, "-m", "fissix", "--write", "--nobackups", "--no-diffs", str(made)],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for file in (made / "case").glob("*.py"):
            # What is not ASCII in a string of Python 2 is its bytes.
            text = file.read_text(encoding="latin-1")
            for word in ["requestNoContextTakeover", "requestMaxWindowBits", "acceptNoContextTakeover", "acceptMaxWindowBits"]:
                text = text.replace(word, re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), word))
            text = text.replace("v.validate(vss[:i])", "v.validate(vss[:i].encode('latin-1'))")
            text = text.replace("from .case9_9_1 import *", "")
            text = text.replace("(object, Case, )", "(Case, )")
            text = text.replace(".tostring()", ".tobytes().decode('latin-1')")
            file.write_text(re.sub(r"\) / self\.p\.", ") // self.p.", text), encoding="utf-8")
        (made / "case").rename(port / "case")
    sys.path.insert(0, str(port))
    resources = types.ModuleType("pkg_resources")
    resources.resource_filename = lambda _, name: str(installed / name)
    sys.modules["pkg_resources"] = resources
    b2a_hex = binascii.b2a_hex
    binascii.b2a_hex = lambda it: b2a_hex(to_bytes(it)).decode()
    from case import Case, Cases

    Case.compare = lambda self, one, other: comparable(one) == comparable(other)
    return Cases


class Client(WebSocketClientProtocol):
    """What the suite's cases expect of their protocol."""

    def __init__(self):
        super().__init__()
        self.connectionWasOpen = False
        self.createWirelog = False
        self.txFrameStats = {}

    def connectionMade(self):
        self.runCase = self.factory.case(self)
        super().connectionMade()

    def onOpen(self):
        self.connectionWasOpen = True
        self.runCase.onOpen()

    def onMessage(self, payload, isBinary):
        # The cases with compression deal in bytes.
        self.runCase.onMessage(payload if hasattr(self.runCase, "TESTDATA") else payload.decode("latin-1"), isBinary)

    def onPong(self, payload):
        self.runCase.onPong(payload)

    def onClose(self, wasClean, code, reason):
        self.runCase.onClose(wasClean, code, reason)

    def connectionLost(self, reason):
        super().connectionLost(reason)
        self.runCase.onConnectionLost(self.failedByMe)
        self.factory.ended.callback((self.runCase.behavior, self.runCase.behaviorClose))

    def sendMessage(self, payload, isBinary=False, **options):
        super().sendMessage(to_bytes(payload), isBinary, **options)

    def sendFrame(self, opcode, payload=b"", **options):
        super().sendFrame(opcode, to_bytes(payload), **options)

    def sendCloseFrame(self, code=None, reasonUtf8=None, **options):
        super().sendCloseFrame(code, to_bytes(reasonUtf8), **options)

    def sendMessageFrameData(self, payload, sync=False):
        return super().sendMessageFrameData(to_bytes(payload), sync)

    def logTxFrame(self, frameHeader, payload, repeatLength, chopsize, sync):
        self.txFrameStats[frameHeader.opcode] = self.txFrameStats.get(frameHeader.opcode, 0) + 1

    def logRxFrame(self, frameHeader, payload):
        pass

    def enableWirelog(self, enable):
        pass

    def _later(self, delay, act):
        reactor.callLater(delay, lambda: self.state != self.STATE_CLOSED and act())

    def continueLater(self, delay, act, tag=None):
        self._later(delay, act)

    def killAfter(self, delay):
        # The suite's own half a second is short for a machine that does other things as well.
        self._later(delay + 3, self._fail_connection)

    def closeAfter(self, delay):
        self._later(delay, self.sendClose)


class Factory(WebSocketClientFactory):
    protocol = Client

    def __init__(self, url, case):
        super().__init__(url, headers=HEADERS)
        patient = dict(openHandshakeTimeout=20, closeHandshakeTimeout=10, serverConnectionDropTimeout=10)
        self.setProtocolOptions(failByDrop=False, **patient)
        self.logFrames = True
        self.case = case
        self.ended = defer.Deferred()

    def clientConnectionFailed(self, connector, reason):
        self.ended.callback(("FAILED", "no connection"))


def run(url, without, at_once, messages):
    def ids(case):
        return [int(number) for number in case.__name__.removeprefix("Case").split("_")]

    cases = [case for case in load_cases() if ids(case)[0] not in without]

    for case in cases:
        # Those with compression send a thousand each, which takes Python an hour.
        if messages and hasattr(case, "TESTDATA"):
            case.COUNT = messages

    def one(case):
        factory = Factory(url, case)
        reactor.connectTCP(factory.host, factory.port, factory)
        name = ".".join(map(str, ids(case)))
        return factory.ended.addCallback(lambda outcome: print(name, *(it.replace(" ", "_") for it in outcome), flush=True))

    work = map(one, cases)
    workers = defer.gatherResults([task.coiterate(work) for _ in range(at_once)])
    failed = []
    workers.addErrback(failed.append)
    workers.addBoth(lambda _: reactor.stop())
    reactor.run()
    for failure in failed:
        failure.printTraceback()
    sys.exit(1 if failed else 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("echo")
    runs = commands.add_parser("run")
    runs.add_argument("url")
    runs.add_argument("--without", type=int, nargs="*", default=[])
    runs.add_argument("--at-once", type=int, default=8)
    runs.add_argument("--messages", type=int)
    runs.add_argument("--token")
    arguments = parser.parse_args()
    if arguments.command == "echo":
        echo()
    else:
        if arguments.token:
            HEADERS["Authorization"] = f"Bearer {arguments.token}"
        run(arguments.url, arguments.without, arguments.at_once, arguments.messages)


if __name__ == "__main__":
    main()
