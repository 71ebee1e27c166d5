# SPDX-License-Identifier: Apache-2.0
"""The index of blocks that engines hold themselves: its answers, and the master's client."""

import threading
import time

import umbp

from ._enums import UMBPTierType
from ._structs import Count, Mapping, Struct, Text

__all__ = [
    "UMBPExternalKvHitCountEntry",
    "UMBPExternalKvMatch",
    "UMBPExternalKvNodeMatch",
    "UMBPMasterClient",
]


class UMBPExternalKvMatch(Struct):
    """What one node holds of the hashes that were asked for."""

    __slots__ = ()
    node_id = Text("")
    peer_address = Text("")
    hashes_by_tier = Mapping()

    def matched_hash_count(self):
        """How many distinct ones; one that is in two tiers counts once."""
        return len({h for hashes in self._values["hashes_by_tier"].values() for h in hashes})

    def __repr__(self):
        return "<%s node_id='%s' matched=%d>" % (
            type(self).__name__,
            self.node_id,
            self.matched_hash_count(),
        )


class UMBPExternalKvNodeMatch(UMBPExternalKvMatch):
    """The same, from UMBPMasterClient."""

    __slots__ = ()


class UMBPExternalKvHitCountEntry(Struct):
    __slots__ = ()
    hash = Text("")
    hit_count_total = Count(0)

    def __repr__(self):
        return "<UMBPExternalKvHitCountEntry hash='%s' hit_count_total=%d>" % (
            self.hash,
            self.hit_count_total,
        )


# ---- calls of umbp.Client, by what they are here. They raise umbp.Error.

_PART = umbp.BATCH_MAX
_KNOWN_SECONDS = 10.0


def wait_until_known(native, seconds=_KNOWN_SECONDS):
    """Whether a master has registered the node of this client, within that time."""
    deadline = time.monotonic() + seconds
    while not native.stats().get("node.registrations"):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def _parts(hashes):
    hashes = list(hashes)
    return [hashes[at : at + _PART] for at in range(0, len(hashes), _PART)]


def tell(call, hashes, tier):
    for part in _parts(hashes):
        call(part, umbp.Tier(tier.value))


def revoke_all(native, tier):
    # Nothing is ever at the tier "unknown"; umbp's word of that number means every tier.
    if tier is not UMBPTierType.Unknown:
        native.external_revoke_all(umbp.Tier(tier.value))


def matches(native, hashes, count_as_hit, kind):
    """A structure of `kind` for each node."""
    nodes = {}
    for part in _parts(hashes):
        for match in native.external_match(part, count_as_hit):
            _, tiers = nodes.setdefault(match.node_id, (match.peer_address, {}))
            tiers.setdefault(UMBPTierType(int(match.tier)), []).append(match.hash)
    made = []
    for node_id, (peer_address, tiers) in nodes.items():
        node = kind()
        node.node_id, node.peer_address, node.hashes_by_tier = node_id, peer_address, tiers
        made.append(node)
    return made


def hit_counts(native, hashes):
    """As published, hashes that were never hit are left out."""
    entries = []
    for part in _parts(hashes):
        for text, hits in zip(part, native.external_hits(part)):
            if hits:
                entry = UMBPExternalKvHitCountEntry()
                entry.hash, entry.hit_count_total = text, hits
                entries.append(entry)
    return entries


class UMBPMasterClient:
    """A client of the master alone; every failure is a RuntimeError.

    It asks as a client that serves nobody. Registered, it is a node with the least memory that a
    node can have: a master believes only nodes, and about themselves.
    """

    def __init__(self, master_address, node_id="", node_address=""):
        for name, value in (
            ("master_address", master_address),
            ("node_id", node_id),
            ("node_address", node_address),
        ):
            if not isinstance(value, str):
                raise TypeError("%s is a str, not %r" % (name, value))
        self._master_address = master_address
        self._node_id = node_id
        self._lock = threading.Lock()  # guards the two below, also while they are made
        self._asker = None
        self._node = None

    def _made(self, name, **options):
        native = umbp.Config()
        native.load_env()  # the cluster's name, seed, provider
        native.update(
            {
                "scheme": "pool",
                "role": "standalone",
                "pool.masters": self._master_address,
                "pool.address": None,
                "pool.port": 0,
                "ssd.enabled": False,
                **options,
            }
        )
        try:
            return umbp.Client(native)
        except umbp.Error as error:
            raise RuntimeError("%s failed: %s" % (name, error)) from error

    def register_self(self, tier_capacities={}):  # noqa: B006 (as published; never written)
        for tier in tier_capacities:
            check_tier(tier)
        if not self._node_id:
            raise RuntimeError("RegisterSelf failed: node_id is empty")
        with self._lock:
            if self._node is not None:
                return
            node = self._made(
                "RegisterSelf",
                **{
                    "pool.serve": True,
                    "pool.node_id": self._node_id,
                    "pool.staging_bytes": "1MiB",
                    "pool.ssd_staging_bytes": "1MiB",
                    "dram.bytes": 4096,
                    "dram.page_bytes": 4096,
                    "dram.backing": "anonymous",
                },
            )
            if not wait_until_known(node):
                node.close()
                raise RuntimeError("RegisterSelf failed: the master has not taken the node")
            self._node = node

    def unregister_self(self):
        with self._lock:
            node, self._node = self._node, None
        if node is not None:
            try:
                node.close()
            except umbp.Error as error:
                raise RuntimeError("UnregisterSelf failed: %s" % error) from error

    def is_registered(self):
        return self._node is not None

    def __del__(self):
        for native in (getattr(self, "_asker", None), getattr(self, "_node", None)):
            if native is not None:
                try:
                    native.close()
                except umbp.Error:
                    pass

    # ---- telling

    def _speaking(self, name, node_id):
        node = self._node
        if node is None or node_id != self._node_id:
            raise RuntimeError(
                "%s failed: this client speaks for node %r, which %s, and not for %r"
                % (name, self._node_id, "is registered" if node else "is not registered", node_id)
            )
        return node

    def report_external_kv_blocks(self, node_id, hashes, tier):
        check_tier(tier)
        node = self._speaking("ReportExternalKvBlocks", node_id)
        _or_raise("ReportExternalKvBlocks", tell, node.external_report, hashes, tier)

    def revoke_external_kv_blocks(self, node_id, hashes, tier):
        check_tier(tier)
        node = self._speaking("RevokeExternalKvBlocks", node_id)
        _or_raise("RevokeExternalKvBlocks", tell, node.external_revoke, hashes, tier)

    def revoke_all_external_kv_blocks_at_tier(self, node_id, tier):
        check_tier(tier)
        node = self._speaking("RevokeAllExternalKvBlocksAtTier", node_id)
        _or_raise("RevokeAllExternalKvBlocksAtTier", revoke_all, node, tier)

    # ---- asking

    def _asking(self, name):
        with self._lock:
            if self._node is not None:
                return self._node
            if self._asker is None:
                self._asker = self._made(
                    name, **{"pool.serve": False, "pool.node_id": None, "pool.tags": None}
                )
            return self._asker

    def match_external_kv(self, hashes, count_as_hit=False):
        native = self._asking("MatchExternalKv")
        return _or_raise(
            "MatchExternalKv", matches, native, hashes, count_as_hit, UMBPExternalKvNodeMatch
        )

    def get_external_kv_hit_counts(self, hashes):
        native = self._asking("GetExternalKvHitCounts")
        return _or_raise("GetExternalKvHitCounts", hit_counts, native, hashes)


def check_tier(tier):
    if not isinstance(tier, UMBPTierType):
        raise TypeError("tier is a UMBPTierType, not %r" % (tier,))


def _or_raise(name, call, *arguments):
    try:
        return call(*arguments)
    except umbp.Error as error:
        raise RuntimeError("%s failed: %s" % (name, error)) from error
