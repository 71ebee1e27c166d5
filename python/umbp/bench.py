# SPDX-License-Identifier: Apache-2.0
"""`python -m umbp.bench`: what Python adds to a batch, next to the same batch through C alone.

Each round makes, one after the other, the batch through C (arguments prepared, no Python) and the
same batch through each form that Python can say it in. Of each Python call two times are taken:
the whole, and the part that was spent inside the library (by a clock in the extension). Their
difference is the argument handling: parsing, releasing the GIL and having it back, results.
Medians over all rounds. Puts are of keys that are there already, so that rounds are alike.
"""
import argparse
import array
import json
import statistics
import sys
import time

from . import Client, Error, HostBuffer, Status, __version__, _umbp

GOAL_US = 20.0


def _forms(client, keys, buffer, value_bytes):
    """(operation, form, call)"""
    count = len(keys)
    pointers = [buffer.pointer + i * value_bytes for i in range(count)]
    sizes = [value_bytes] * count
    flat_pointers, flat_sizes = array.array("Q", pointers), array.array("Q", sizes)
    whole = memoryview(buffer)
    views = [whole[i * value_bytes:(i + 1) * value_bytes] for i in range(count)]
    pairs = list(zip(pointers, sizes))
    depths = list(range(count))
    coded = [key.encode() for key in keys]
    return [
        ("get", "arrays", lambda: client.batch_get(keys, flat_pointers, flat_sizes)),
        ("get", "arrays, keys as bytes", lambda: client.batch_get(coded, flat_pointers,
                                                                  flat_sizes)),
        ("get", "lists", lambda: client.batch_get(keys, pointers, sizes)),
        ("get", "pairs", lambda: client.batch_get(keys, pairs)),
        ("get", "buffers", lambda: client.batch_get(keys, views)),
        ("put", "arrays", lambda: client.batch_put(keys, flat_pointers, flat_sizes)),
        ("put", "lists and depths", lambda: client.batch_put(keys, pointers, sizes, depths)),
        ("exists", "keys", lambda: client.batch_exists(keys)),
    ], flat_pointers, flat_sizes


def _round(calls, c_calls, times):
    for operation, call in c_calls.items():
        times[operation, "C"].append((call(), 0))
    for operation, form, call in calls:
        _umbp.library_ns()
        began = time.perf_counter_ns()
        call()
        whole = time.perf_counter_ns() - began
        times[operation, form].append((whole, _umbp.library_ns()))


def measure(batch=128, value_bytes=65536, rounds=1000):
    """A list of rows: operation, form, whole_us, library_us, handling_us, c_us."""
    keys = [f"{i:064x}" for i in range(batch)]
    with HostBuffer(batch * value_bytes) as buffer, \
            Client({"dram.bytes": max(2 * batch * (value_bytes + 65536), 16 << 20)}) as client:
        calls, pointers, sizes = _forms(client, keys, buffer, value_bytes)
        if any(s != Status.OK for s in client.batch_put(keys, pointers, sizes)):
            raise RuntimeError("the values could not be stored")
        c_calls = {op: (lambda op=op: _umbp.bench_batch(client, op, keys, pointers, sizes, 1)[0])
                   for op in ("get", "put", "exists")}
        _umbp.time_calls(True)
        try:
            for timed_rounds in (max(rounds // 20, 5), rounds):  # the first to warm up
                times = {(op, form): [] for op, form, _ in calls}
                times.update({(op, "C"): [] for op in c_calls})
                for _ in range(timed_rounds):
                    _round(calls, c_calls, times)
        finally:
            _umbp.time_calls(False)
        rows = []
        for operation, form, _ in calls:
            samples = times[operation, form]
            rows.append({
                "operation": operation,
                "form": form,
                "whole_us": statistics.median(w for w, _ in samples) / 1000,
                "library_us": statistics.median(l for _, l in samples) / 1000,
                "handling_us": statistics.median(w - l for w, l in samples) / 1000,
                "c_us": statistics.median(w for w, _ in times[operation, "C"]) / 1000,
            })
        del calls  # views of the buffer
        return rows


def main():
    parser = argparse.ArgumentParser(prog="python -m umbp.bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128, help="items of a batch (%(default)s)")
    parser.add_argument("--bytes", type=int, default=65536, help="of a value (%(default)s)")
    parser.add_argument("--rounds", type=int, default=1000, help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    if not 1 <= options.batch <= 65536 or options.bytes < 1 or options.rounds < 1:
        parser.error("a batch has 1 to 65536 items, a value 1 byte or more, and one round at least")
    try:
        rows = measure(options.batch, options.bytes, options.rounds)
    except (Error, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
    if options.json:
        print(json.dumps({"umbp": __version__, "python": sys.version.split()[0],
                          "batch": options.batch, "bytes": options.bytes,
                          "rounds": options.rounds, "goal_us": GOAL_US, "rows": rows}))
        return
    print(f"batches of {options.batch} values of {options.bytes} bytes, microseconds a batch, "
          f"medians of {options.rounds} rounds")
    print(f"{'':8}{'':24}{'handling':>10}{'library':>10}{'whole':>10}{'C alone':>10}")
    for row in rows:
        print(f"{row['operation']:8}{row['form']:24}{row['handling_us']:10.1f}"
              f"{row['library_us']:10.1f}{row['whole_us']:10.1f}{row['c_us']:10.1f}")


if __name__ == "__main__":
    main()
