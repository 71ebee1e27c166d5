# SPDX-License-Identifier: Apache-2.0
"""Client and HostBuffer: the native types, and what is easier said in Python."""
import atexit
import enum
import operator
import os
import typing
import weakref

from . import _umbp
from ._config import Config

_open = weakref.WeakValueDictionary()  # by id: a subclass may define __eq__


class Entry(typing.NamedTuple):
    """What is known of one held value."""

    key: bytes
    bytes: int
    depth: typing.Optional[int]
    pins: int
    in_dram: bool
    in_ssd: bool


class Tier(enum.IntEnum):
    """Where an engine keeps a block of its own, for the external KV index."""

    NONE = 0
    HBM = 1
    DRAM = 2
    SSD = 3


class ExternalMatch(typing.NamedTuple):
    """One place where a hash is: `index` is its position in the call."""

    hash: typing.Union[str, bytes]
    index: int
    tier: Tier
    node_id: str
    peer_address: str


_TIERS = {int(tier): tier for tier in Tier}


class Client(_umbp.Client):
    """The store that a configuration describes.

        with umbp.Client({"dram.bytes": "64GiB"}) as client:
            client.put("key", data)
            data = client.get("key")

    Every method may be called from any thread, also while another one closes the client. Every
    call is bounded in time by `op_timeout_ms`. A forked child must make a client of its own:
    this one answers ForkedError there.
    """

    __slots__ = ("_config", "_registered", "__weakref__")

    def __init__(self, config=None, /, **options):
        config = Config(config, **options)
        super().__init__(config._native)  # refuses a second time, and then nothing changes
        self._config = config
        self._registered = {}
        _open[id(self)] = self

    @property
    def config(self):
        """A copy of the configuration that it was made with."""
        return Config(self._config)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self, timeout=None):
        """End service: calls that begin later raise ClosedError, those in flight are waited for, and
        what was stored is flushed; within `timeout` seconds (close_timeout_ms by default), else
        TimeoutError. Idempotent. Nothing in a forked child."""
        super().close(timeout)
        getattr(self, "_registered", {}).clear()

    def stat(self, key, /):
        """What is known of one key, as an Entry. NotFoundError."""
        return Entry._make(super().stat(key))

    def list(self, limit=None):
        """An Entry for each held value, in no order; at most `limit`."""
        return [Entry._make(row) for row in super().list(limit)]

    def register_memory(self, data, size=None):
        """Announce memory that later calls will use: an object with the buffer protocol, which is
        held until it is deregistered or the client goes, or a pointer and its size."""
        if size is not None:
            super().register_memory(data, size)
            return
        view = None
        pointer, size = _umbp.memory_of(data, False)
        if not isinstance(data, tuple):
            view = memoryview(data)
            pointer, size = _umbp.memory_of(view, False)
        super().register_memory(pointer, size)
        if view is not None:
            self._registered[pointer] = view

    def deregister_memory(self, data):
        """`data` as it was registered: the object, the tuple or the pointer."""
        pointer = data
        if not _umbp.is_one(data):
            pointer, _ = _umbp.memory_of(data, False)
        super().deregister_memory(pointer)
        pointer = operator.index(pointer)
        self._registered.pop(pointer, None)

    def external_report(self, hashes, tier):
        """Tell the masters that this node's engine has these hashes at the tier (a Tier); tiers add
        up. In the pool scheme only, else UnsupportedError. NotFoundError: no master knows this node
        yet, which takes a moment after its creation."""
        super().external_report(hashes, _tier(tier))

    def external_revoke(self, hashes, tier):
        """It has them at the tier no more."""
        super().external_revoke(hashes, _tier(tier))

    def external_revoke_all(self, tier=Tier.NONE):
        """It has nothing at the tier any more; Tier.NONE: at any tier."""
        super().external_revoke_all(_tier(tier))

    def external_match(self, hashes, count_as_hit=False):
        """An ExternalMatch for every place of every hash, node by node. `count_as_hit`: this decides
        where a request goes and is not just a look."""
        rows = super().external_match(hashes, count_as_hit)
        return [ExternalMatch(hash, index, _TIERS.get(tier, tier), node_id, peer_address)
                for hash, index, tier, node_id, peer_address in rows]

    def __repr__(self):
        state = "closed" if self.closed else "open"
        config = getattr(self, "_config", None)  # none where making it failed
        return f"<umbp.Client {state} {config.changed()!r}>" if config else f"<umbp.Client {state}>"

    def __reduce__(self):
        raise TypeError("a client can't be pickled: make one in each process, from its config")


def _tier(tier):
    if not hasattr(tier, "__index__"):
        raise TypeError(f"tier is a umbp.Tier, not {type(tier).__name__}")
    return int(Tier(tier))


class HostBuffer(_umbp.HostBuffer):
    """Memory for an engine's own pages: mapped, zeroed, with the buffer protocol.

        HostBuffer(bytes, backing="anonymous", numa_node=None, prefault=True, prefault_threads=0)

    `backing` is "anonymous", "huge_pages", "shared" or "shared_huge_pages"; huge pages fall back to
    ordinary ones with a warning in the log, and the attribute `backing` says what was had. A shared
    one is a memfd of fixed size: `fd` and `name` lead other processes to it.
    memoryview(buffer), numpy.frombuffer(buffer, dtype) and torch.frombuffer(buffer, dtype=...) see
    its bytes without a copy and keep it alive.
    """

    __slots__ = ("__weakref__",)

    @property
    def name(self):
        """A path that opens it, for processes of the same user; None unless shared."""
        return None if self.fd is None else f"/proc/{os.getpid()}/fd/{self.fd}"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def __repr__(self):
        if self.closed:
            return "<umbp.HostBuffer closed>"
        return f"<umbp.HostBuffer {self.bytes} bytes, {self.backing}, at {self.pointer:#x}>"

    def __reduce__(self):
        raise TypeError("a HostBuffer can't be pickled; hand its fd to the other process")


def _close_all():
    """Before the interpreter goes: what is open is closed, which flushes it."""
    while True:
        try:
            clients = list(_open.values())
            break
        except RuntimeError:  # a daemon thread makes one meanwhile
            continue
    for client in clients:
        try:
            client.close()
        except Exception:  # at exit there is nobody to tell
            pass


atexit.register(_close_all)
for _class in (Client, Entry, ExternalMatch, HostBuffer, Tier):
    _class.__module__ = "umbp"
