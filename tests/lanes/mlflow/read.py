"""Run by the lane's own Python: what MLflow or TensorBoard make of what was told, as JSON.

mlflow URL RUN          every entry of every metric by key, parameters, status
tensorboard FOLDER      every scalar by tag
"""

import json
import sys


def mlflow(url: str, run: str) -> dict:
    from mlflow import MlflowClient

    client = MlflowClient(url)
    found = client.get_run(run)
    history = {
        key: [[entry.step, entry.value] for entry in client.get_metric_history(run, key)]
        for key in found.data.metrics
    }
    name = client.get_experiment(found.info.experiment_id).name
    return {
        "metrics": history,
        "params": found.data.params,
        "status": found.info.status,
        "experiment": name,
    }


def runs(url: str) -> list:
    from mlflow import MlflowClient

    client = MlflowClient(url)
    experiments = [e.experiment_id for e in client.search_experiments()]
    return [run.info.run_id for run in client.search_runs(experiments)]


def tensorboard(folder: str) -> dict:
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    reader = EventMultiplexer().AddRunsFromDirectory(folder)
    reader.Reload()
    return {
        run: {
            tag: [[event.step, event.value] for event in reader.Scalars(run, tag)] for tag in tags["scalars"]
        }
        for run, tags in reader.Runs().items()
    }


json.dump(
    {"mlflow": mlflow, "runs": runs, "tensorboard": tensorboard}[sys.argv[1]](*sys.argv[2:]), sys.stdout
)
