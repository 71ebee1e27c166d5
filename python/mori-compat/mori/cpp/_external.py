# SPDX-License-Identifier: Apache-2.0
"""The index of blocks that engines hold themselves: its answers, and the master's client.

This version has no master; the answers are whole so that code which names them runs.
"""

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


class UMBPMasterClient:
    """A client of the master alone. Made without one; its calls wait for a version that has one."""

    def __init__(self, master_address, node_id="", node_address=""):
        for name, value in (
            ("master_address", master_address),
            ("node_id", node_id),
            ("node_address", node_address),
        ):
            if not isinstance(value, str):
                raise TypeError("%s is a str, not %r" % (name, value))
        self._master_address = master_address

    def _refuse(self, name):
        raise RuntimeError(
            "%s failed: this version of umbp has no master (asked for %r)"
            % (name, self._master_address)
        )

    def register_self(self, tier_capacities={}):  # noqa: B006 (as published; never written)
        self._refuse("RegisterSelf")

    def unregister_self(self):
        self._refuse("UnregisterSelf")

    def is_registered(self):
        return False

    def report_external_kv_blocks(self, node_id, hashes, tier):
        self._refuse("ReportExternalKvBlocks")

    def revoke_external_kv_blocks(self, node_id, hashes, tier):
        self._refuse("RevokeExternalKvBlocks")

    def revoke_all_external_kv_blocks_at_tier(self, node_id, tier):
        self._refuse("RevokeAllExternalKvBlocksAtTier")

    def match_external_kv(self, hashes, count_as_hit=False):
        self._refuse("MatchExternalKv")

    def get_external_kv_hit_counts(self, hashes):
        self._refuse("GetExternalKvHitCounts")
