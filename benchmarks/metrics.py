"""Metrics of many records: `python -m benchmarks.metrics [--records 50000]` prints the seconds of each protocol."""

import argparse
import time

import numpy as np

from sspsam.evaluation.metrics import compute_metrics
from sspsam.evaluation.protocols import PROTOCOLS
from sspsam.evaluation.records import Record


def random_records(count: int) -> list[Record]:
    """Return records of random masks, a third of them without a target."""
    generator = np.random.default_rng(0)
    records = []
    for index in range(count):
        predicted, target = (int(pixels) for pixels in generator.integers(1, 1000, 2))
        shared = int(generator.integers(0, min(predicted, target) + 1))
        records.append(Record(index, index % 3 == 0, index % 4 == 0, shared, predicted, target, 0.5, 80, 0.4))
    return records


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time the metrics of many records.")
    parser.add_argument("--records", type=int, default=50_000)
    records = random_records(parser.parse_args().records)
    for protocol in PROTOCOLS:
        start = time.perf_counter()
        compute_metrics(records, protocol)
        print(f"{protocol}: {time.perf_counter() - start:.2f} s for {len(records)} records")


if __name__ == "__main__":
    main()
