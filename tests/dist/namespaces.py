"""What tests/dist/namespaces.sh measured: what must hold, then tables of time beside the model.

The one idea: a node's link carries a number of bytes that every exchange fixes by formula, so both
the counters of the links and the clock can be held against it.
    namespaces.py ROWS NODES RANKS_A_NODE
"""
import json
import sys

passed, failed = 0, 0


def check(holds, text):
    global passed, failed
    if holds:
        passed += 1
    else:
        failed += 1
        print("FAILED", text)


def formula(exchange, tensor, payload, nodes, ranks):
    """Messages of a rank inside and between nodes, and its bytes between them."""
    p = nodes * ranks
    if exchange == "flat":
        return ranks - 1, p - ranks, payload * (p - ranks) // p
    if exchange == "hierarchical":
        return ranks - 1, nodes - 1, payload * (nodes - 1) // nodes
    inside = ranks // tensor - 1 + tensor - 1
    return inside, (p - ranks) // tensor, payload // tensor * (p - ranks) // p


def read(path):
    """Models by rate, and runs: a head and its rows."""
    models, runs = {}, []
    for line in open(path):
        if not line.strip():
            continue
        row = json.loads(line)
        if "model" in row:
            models[row["mbit"]] = row
        elif "wire" in row:
            runs.append((row, []))
        else:
            runs[-1][1].append(row)
    return models, runs


def check_run(head, rows, burst, nodes, ranks):
    name = f'{head["exchange"]} {head["tensor"]} at {head["mbit"]} Mbit/s'
    check(len(rows) == head["sizes"], f'{name}: {len(rows)} rows of {head["sizes"]}')
    carried = 0
    for row in rows:
        size = f'{name}, {row["bytes"]} bytes'
        want = formula(head["exchange"], head["tensor"], row["bytes"], nodes, ranks)
        came = (row["inside"], row["between"], row["bytes_between"])
        check(came == want, f"{size}: messages inside, between, bytes {came}, expected {want}")
        of_node = row["bytes_between"] * ranks
        carried += of_node * nodes * (head["repeats"] + 1)
        if head["mbit"] > 0:
            least = (of_node - burst) / head["mbit"] * 8
            check(row["measured_us"] >= least,
                  f'{size}: {row["measured_us"]:.0f} us, the link needs {least:.0f}')
    # On the wire are headers, too (66 bytes a frame of 1448), as much again for an answer to each,
    # barriers, and what TCP sends twice when busy cores answer late.
    if rows and min(row["bytes"] for row in rows) >= 1 << 19:
        check(carried <= head["wire"] <= 1.2 * carried,
              f'{name}: {head["wire"]} bytes on the wire, {carried} counted')


def label(mbit):
    return f"{mbit} Mbit/s" if mbit else "unshaped"


def tables(models, runs):
    """Prints a table for each rate; returns {(mbit, exchange, tensor, bytes): microseconds}."""
    times, predicted, ways = {}, {}, []
    for head, rows in runs:
        way = (head["exchange"], head["tensor"])
        if way not in ways:
            ways.append(way)
        for row in rows:
            key = (head["mbit"], *way, row["bytes"])
            times[key], predicted[key] = row["measured_us"], row["model_us"]
    sizes = sorted({key[3] for key in times})
    for mbit, model in models.items():
        print(f'\n{label(mbit)}; us and GB/s inside, between: {model["model"]}; microseconds')
        names = [e if t == 1 else f"{e} {t}" for e, t in ways]
        print("| bytes a rank |" + "".join(f" {n} | model |" for n in names) + " fastest |")
        print("|---:|" + "---:|---:|" * len(ways) + "---|")
        for size in sizes:
            found = [times.get((mbit, *way, size)) for way in ways]
            if None in found:
                continue
            cells = "".join(f" {times[(mbit, *way, size)]:,.0f} | "
                            f"{predicted[(mbit, *way, size)]:,.0f} |" for way in ways)
            print(f"| {size:,} |{cells} {names[found.index(min(found))]} |")
    return times


def check_claims(times):
    """Where the links alone decide, the bytes between nodes do."""
    slow = min(key[0] for key in times if key[0] > 0)
    size = max(key[3] for key in times)
    flat = times[(slow, "flat", 1, size)]
    for (mbit, exchange, tensor, bytes_), time in times.items():
        if (mbit, bytes_) != (slow, size) or exchange == "flat":
            continue
        ratio = flat / time
        # Coordinated sends 1 / tensor of the bytes, hierarchical all of them.
        check(0.7 * tensor <= ratio <= 1.4 * tensor,
              f"{exchange} {tensor} is {ratio:.2f} times as fast as flat at {slow} Mbit/s")


def main():
    path, nodes, ranks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    models, runs = read(path)
    for head, rows in runs:
        check_run(head, rows, models[head["mbit"]]["burst"], nodes, ranks)
    times = tables(models, runs)
    if failed == 0:
        check_claims(times)
    print(f"\n{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed or not passed else 0


sys.exit(main())
