"""The command line as a user meets it: help, errors, exit codes, thirty defects, the demo's parts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import EXAMPLES, ROOT, Up, clean_environment, finish, upload

DEFECTS = ROOT / "tests" / "data" / "thirty_defects.jsonl"


def graft(
    *arguments: str, home: Path, data: Path | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(home)
    if data:
        environment["GRAFTWORK_DATA"] = str(data)
    return subprocess.run(
        [sys.executable, "-m", "graftwork", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        input=stdin,
        timeout=800,
    )


def test_help_imports_nothing_heavy(tmp_path: Path):
    """What keeps `graft --help` under 150 ms (see bench/start.py): nothing heavy is loaded."""
    code = (
        "import sys\n"
        "from graftwork.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'fastapi', 'pydantic', 'sqlalchemy', 'httpx', 'pyarrow',"
        " 'tokenizers', 'uvicorn', 'asyncio'}\n"
        "sys.exit(f'imported {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment(tmp_path), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "graft demo" in done.stdout


def test_the_control_plane_brings_no_torch(tmp_path: Path):
    code = (
        "import sys, graftwork.control.platform, graftwork.api.serve, graftwork.gateway, graftwork.cli.main\n"
        "heavy = {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment(tmp_path), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_without_a_server_it_says_what_to_do(tmp_path: Path):
    done = graft("job", "ls", home=tmp_path)
    assert done.returncode == 3
    assert "graft up" in done.stderr
    assert not done.stdout


def test_usage_errors_exit_2(tmp_path: Path):
    assert graft("job", "nope", home=tmp_path).returncode == 2
    assert graft("train", home=tmp_path).returncode == 2


def test_thirty_defects_are_thirty_findings(up: Up, tmp_path: Path):
    listed = json.loads(DEFECTS.with_suffix(".expected.json").read_text())
    expected = [(finding["line"], finding["code"]) for finding in listed]
    done = graft("dataset", "check", str(DEFECTS), "--json", home=tmp_path)
    assert done.returncode == 2
    findings = [f for f in json.loads(done.stdout)["findings"] if f["severity"] == "error"]
    assert [(f["line"], f["code"]) for f in findings] == expected
    assert len(findings) == 30
    client = up.client()
    job = client.fine_tuning.jobs.create(model="seedling", training_file=upload(client, DEFECTS))
    failed = finish(client, job.id)
    assert failed.status == "failed"
    assert failed.error.code == "invalid_training_file"
    assert failed.error.param == "training_file"
    told = [(f["line"], f["code"]) for f in failed.error.graftwork["findings"] if f["severity"] == "error"]
    assert told == expected
    for line, _ in expected:
        assert f"line {line}" in failed.error.message.lower()


@pytest.mark.slow
def test_the_commands_speak_of_a_finished_job(up: Up, trained, tmp_path: Path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = graft(*arguments, home=tmp_path, data=up.data)
        assert done.returncode == 0, (arguments, done.stderr)
        return done

    assert trained.id in run("job", "ls").stdout
    assert trained.id in run("job", "ls", "--quiet").stdout.split()
    assert json.loads(run("job", "show", trained.id, "--json").stdout)["status"] == "succeeded"
    assert "PASS" in run("job", "show", trained.id).stdout
    assert "completed" in run("job", "logs", trained.id).stdout
    assert "tickets" in run("adapter", "ls").stdout
    assert "@1" in run("adapter", "show", "tickets").stdout
    assert trained.fine_tuned_model in run("adapter", "show", "tickets@1").stdout
    assert "training_tokens" in run("bill").stdout
    answer = run("chat", "tickets", "hello", "--max-tokens", "8")
    assert answer.stdout.strip()
    made = run("key", "create", "second").stdout.strip()
    assert made.startswith("gw_")
    listed = json.loads(run("key", "ls", "--json").stdout)
    assert "second" in [key["name"] for key in listed]
    assert made not in json.dumps(listed)
    missing = graft("job", "show", "ftjob-nope", home=tmp_path, data=up.data)
    assert missing.returncode == 4


@pytest.mark.slow
def test_train_from_the_command_line(up: Up, tmp_path: Path):
    done = graft(
        "train",
        str(EXAMPLES / "lookup.train.jsonl"),
        *(
            "--validation",
            str(EXAMPLES / "lookup.valid.jsonl"),
            "--suffix",
            "lookup",
            "--epochs",
            "1",
            "--yes",
            "--json",
        ),
        home=tmp_path,
        data=up.data,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "succeeded"
    assert "Fine-tuning job started" in done.stderr


@pytest.mark.slow
def test_the_demo_runs_from_end_to_end(tmp_path: Path):
    environment = clean_environment(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "graftwork", "demo"],
        capture_output=True,
        text=True,
        env={**environment, "NO_COLOR": "1", "TMPDIR": str(tmp_path)},
        timeout=800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("Gate default: PASS", "adapter", "base", "training_tokens", "Total"):
        assert word in done.stdout
    assert not list(tmp_path.glob("graftwork-demo-*"))
