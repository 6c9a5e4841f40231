"""Run by the lane's own Python: what offline folders hold, folder by folder in order, as JSON."""

import json
import struct
import sys
from pathlib import Path

from wandb.proto import wandb_internal_pb2


def scan(path):
    """The messages of a file: LevelDB's log format (blocks of 32 KiB) after a header of 7 bytes."""
    data, at, parts = path.read_bytes(), 7, []
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if 0x8000 - at % 0x8000 < 7:
            at += 0x8000 - at % 0x8000
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts.append(data[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


found = []
for path in sorted(Path(sys.argv[1]).glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
    steps, run, exits = [], None, None
    for data in scan(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = {
                "id": record.run.run_id,
                "project": record.run.project,
                "group": record.run.run_group,
                "name": record.run.display_name,
                "config": {item.key: json.loads(item.value_json) for item in record.run.config.update},
            }
        elif kind == "history":
            values = {
                item.key or ".".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            steps.append([values.get("_step", record.history.step.num), values["train/loss"]])
        elif kind == "exit":
            exits = record.exit.exit_code
    found.append({"run": run, "steps": steps, "exit": exits})
json.dump(found, sys.stdout)
