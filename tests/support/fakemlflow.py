"""MLflow's REST API in memory, as far as it is used: strict about what it is sent, away when told."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class FakeRun:
    """One run: its metrics as they were logged, in order."""

    info: dict[str, Any]
    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, int, float]] = field(default_factory=list)

    def of(self, key: str) -> list[tuple[int, float]]:
        """Step and value of every entry of a metric."""
        return [(step, value) for name, step, value in self.metrics if name == key]


class FakeMLflow(httpx.AsyncBaseTransport):
    """The server, as a transport.

    Attributes:
        away: answer nothing.
        lose_answers: do what is asked, then break the connection, so many times.
    """

    def __init__(self) -> None:
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, FakeRun] = {}
        self.away = False
        self.lose_answers = 0
        self.authorization: list[str | None] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one call."""
        if self.away:
            raise httpx.ConnectError("away", request=request)
        self.authorization.append(request.headers.get("authorization"))
        path = request.url.path.removeprefix("/api/2.0/mlflow/")
        body = json.loads(request.content) if request.content else dict(request.url.params)
        answer = self._answer(path, body)
        if path == "runs/log-batch" and "metrics" in body and self.lose_answers:
            self.lose_answers -= 1
            raise httpx.ReadError("lost", request=request)
        if answer is None:
            return httpx.Response(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST"}, request=request)
        return httpx.Response(200, json=answer, request=request)

    def _answer(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        match path:
            case "experiments/get-by-name":
                found = self.experiments.get(body["experiment_name"])
                return None if found is None else {"experiment": {"experiment_id": found}}
            case "experiments/create":
                assert body["name"] not in self.experiments
                self.experiments[body["name"]] = str(len(self.experiments) + 1)
                return {"experiment_id": self.experiments[body["name"]]}
            case "runs/search":
                found = [
                    run for run in self.runs.values() if f"'{run.tags['graftwork.job']}'" in body["filter"]
                ]
                return {"runs": [{"info": run.info} for run in found]} if found else {}
            case "runs/create":
                id = f"run{len(self.runs) + 1}"
                tags = {tag["key"]: tag["value"] for tag in body["tags"]}
                info = {"run_id": id, "status": "RUNNING", "run_name": body["run_name"]}
                self.runs[id] = FakeRun({**info, "experiment_id": body["experiment_id"]}, tags)
                return {"run": {"info": self.runs[id].info}}
            case "runs/get":
                latest = {key: (step, value) for key, step, value in self.runs[body["run_id"]].metrics}
                metrics = [{"key": k, "step": s, "value": v} for k, (s, v) in latest.items()]
                return {"run": {"data": {"metrics": metrics}}}
            case "runs/log-batch":
                run = self.runs[body["run_id"]]
                assert len(body.get("metrics", [])) <= 1000
                run.params |= {p["key"]: p["value"] for p in body.get("params", [])}
                run.metrics += [(m["key"], m["step"], m["value"]) for m in body.get("metrics", [])]
                return {}
            case "runs/update":
                self.runs[body["run_id"]].info |= {k: body[k] for k in ("status", "end_time")}
                return {}
            case _:
                raise AssertionError(path)
