"""MLflow, by its REST API; its package is not needed.

API: https://mlflow.org/docs/latest/rest-api.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx

from graftwork.core.errors import Unavailable
from graftwork.runs.documents import Metrics
from graftwork.trackers.port import Ending, Subject, values

_TAG = "graftwork.job"
_BATCH = 900
"""Metrics of one call; MLflow takes 1000."""
_STATUS: dict[Ending, str] = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}
_MAX_PARAMETER = 500


class MLflow:
    """One tracking server: an experiment for each project, a run for each job."""

    name = "mlflow"

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        login: tuple[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Speak to the server at ``url``.

        Args:
            url: ``http://host:5000``.
            token: sent as a bearer, where the server asks for one.
            login: user and password, where it asks for these.
            transport: how requests travel; tests give one.
        """
        self._url = url.rstrip("/") + "/api/2.0/mlflow/"
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._login = login
        self._transport = transport

    async def tell(self, subject: Subject, metrics: Sequence[Metrics]) -> str:
        """See ``Tracker.tell``. What the server has already is asked first: each step is told once."""
        async with self._client() as http:
            server = _Server(http)
            run = subject.remote or await server.run(subject)
            known = await server.last_step(run)
            rows = [
                {"key": key, "value": value, "timestamp": int(event.at * 1000), "step": event.step}
                for event in metrics
                if event.step > known
                for key, value in values(event).items()
            ]
            for batch in _whole_steps(rows):
                await server.call("POST", "runs/log-batch", {"run_id": run, "metrics": batch})
        return run

    async def end(self, subject: Subject, ending: Ending, at: float) -> None:
        """See ``Tracker.end``."""
        async with self._client() as http:
            server = _Server(http)
            run = subject.remote or await server.run(subject)
            body = {"run_id": run, "status": _STATUS[ending], "end_time": int(at * 1000)}
            await server.call("POST", "runs/update", body)

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._url,
            headers=self._headers,
            auth=self._login,
            timeout=20.0,
            transport=self._transport,
        )


class _Server:
    """The few calls that are needed."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def run(self, subject: Subject) -> str:
        """The run of a job: found by its tag, or made."""
        experiment = await self._experiment(subject.group)
        asked = {
            "experiment_ids": [experiment],
            "filter": f"tags.`{_TAG}` = '{subject.job_id}'",
            "max_results": 1,
        }
        found = (await self.call("POST", "runs/search", asked)).get("runs") or []
        if found:
            return found[0]["info"]["run_id"]
        fresh = {
            "experiment_id": experiment,
            "run_name": subject.name,
            "start_time": int(subject.started_at * 1000),
            "tags": [{"key": _TAG, "value": subject.job_id}],
        }
        run = (await self.call("POST", "runs/create", fresh))["run"]["info"]["run_id"]
        params = [{"key": k, "value": v[:_MAX_PARAMETER]} for k, v in subject.parameters.items()]
        await self.call("POST", "runs/log-batch", {"run_id": run, "params": params})
        return run

    async def _experiment(self, name: str) -> str:
        found = await self.call("GET", "experiments/get-by-name", {"experiment_name": name}, missing=True)
        if found:
            return found["experiment"]["experiment_id"]
        return (await self.call("POST", "experiments/create", {"name": name}))["experiment_id"]

    async def last_step(self, run: str) -> int:
        """The highest step the server has of a run; 0 before the first."""
        data = (await self.call("GET", "runs/get", {"run_id": run}))["run"]["data"]
        steps = [int(metric["step"]) for metric in data.get("metrics", []) if metric["key"] == "train/loss"]
        return max(steps, default=0)

    async def call(
        self, method: str, path: str, body: dict[str, Any], *, missing: bool = False
    ) -> dict[str, Any]:
        """One call; with ``missing`` an empty answer stands for a thing that is not there."""
        options: dict[str, Any] = {"params": body} if method == "GET" else {"json": body}
        try:
            answer = await self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"MLflow does not answer ({type(error).__name__}).", code="mlflow_away"
            ) from error
        if missing and answer.status_code == 404:
            return {}
        if answer.status_code >= 400:
            raise Unavailable(
                f"MLflow answered {answer.status_code} to {path}: {answer.text[:300]}", code="mlflow_refused"
            )
        return answer.json()


def _whole_steps(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Batches that hold all of a step or nothing of it: what the server has says which steps are told."""
    batches: list[list[dict[str, Any]]] = []
    for row in rows:
        room = bool(batches) and (len(batches[-1]) < _BATCH or batches[-1][-1]["step"] == row["step"])
        if room:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
