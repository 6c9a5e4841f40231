"""``graft dataset split|dedup|mix|stats|diff`` on files of this machine, without any server."""

import json

import pytest

from graftwork.cli import main as entry


@pytest.fixture
def graft(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAFTWORK_DATA", str(tmp_path / "none"))
    for name in ("GRAFTWORK_URL", "GRAFTWORK_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            entry.main(list(map(str, arguments)))
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return run


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(count, answer="yes", word="thing"):
    return [
        {"prompt": f"What of the {word} {chr(97 + n % 26) * 7} at {n * 7919}?", "completion": answer}
        for n in range(count)
    ]


def test_a_split_writes_its_parts_and_never_over_a_file(graft, tmp_path):
    write(tmp_path / "all.jsonl", rows(30))
    code, out, err = graft("dataset", "split", "all.jsonl", "--valid", "0.2", "--seed", "1")
    assert code == 0 and out.splitlines() == ["all.train.jsonl", "all.valid.jsonl"]
    assert "train: 24 rows" in err
    lines = [(tmp_path / name).read_bytes().splitlines() for name in out.splitlines()]
    assert len(lines[0]) == 24 and len(lines[1]) == 6
    before = (tmp_path / "all.train.jsonl").read_bytes()
    code, _, err = graft("dataset", "split", "all.jsonl", "--valid", "0.2", "--seed", "2")
    assert code == 5 and "file_exists" in err
    assert (tmp_path / "all.train.jsonl").read_bytes() == before


def test_duplicates_are_listed_with_their_lines(graft, tmp_path):
    write(tmp_path / "a.jsonl", rows(5) + rows(1))
    code, out, err = graft("dataset", "dedup", "a.jsonl", "-o", "b.jsonl")
    assert code == 0 and out == "a.jsonl:6: exact duplicate of line 1 (1.00)\n"
    assert "5 of 6 rows kept" in err and len((tmp_path / "b.jsonl").read_bytes().splitlines()) == 5
    code, out, _ = graft("dataset", "dedup", "b.jsonl", "-o", "c.jsonl", "--exact", "--json")
    assert code == 0 and json.loads(out)["dropped"] == []


def test_files_of_any_format_are_mixed_by_weight(graft, tmp_path):
    write(tmp_path / "a.jsonl", rows(20))
    (tmp_path / "b.csv").write_text("prompt,completion\n" + "".join(f"q{n} of b,yes\n" for n in range(4)))
    code, out, err = graft("dataset", "mix", "a.jsonl", "b.csv", "-o", "m.jsonl", "--weights", "3,1")
    assert (code, out) == (0, "m.jsonl\n") and "a.jsonl: 12 rows out of 20" in err
    assert len((tmp_path / "m.jsonl").read_bytes().splitlines()) == 16
    code, _, err = graft("dataset", "mix", "a.jsonl", "b.csv", "-o", "n.jsonl", "--weights", "3,x")
    assert code == 2 and "2 numbers" in err
    assert graft("dataset", "mix", "-o", "n.jsonl")[0] == 2


def test_numbers_are_printed_for_people_and_programs(graft, tmp_path):
    write(tmp_path / "a.jsonl", rows(12) + rows(8, "no", "other thing") + [rows(1, "maybe")[0]])
    code, out, _ = graft("dataset", "stats", "a.jsonl")
    assert code == 0 and "rows: 21 completion" in out
    assert "labels: yes 12, no 8, maybe 1; least to most 0.08" in out
    assert "conflict: 2 answers to the same question in 1, 21" in out
    code, out, _ = graft("dataset", "stats", "a.jsonl", "--json")
    assert json.loads(out)["tokens"]["rows"] == 21


def test_two_versions_are_compared(graft, tmp_path):
    write(tmp_path / "a.jsonl", rows(4))
    write(tmp_path / "b.jsonl", [*rows(3), {"prompt": "Quite another?", "completion": "yes"}])
    code, out, err = graft("dataset", "diff", "a.jsonl", "b.jsonl", "--exit-code")
    assert (code, out.splitlines()) == (1, ["- a.jsonl:4", "+ b.jsonl:4"])
    assert "3 rows the same" in err
    assert graft("dataset", "diff", "a.jsonl", "a.jsonl", "--exit-code")[0] == 0


def test_every_problem_of_every_file_is_told_at_once(graft, tmp_path):
    write(tmp_path / "a.jsonl", [{"prompt": "p"}, {"prompt": "p", "completion": "c"}, {"completion": "c"}])
    write(tmp_path / "b.jsonl", [{"prompt": "p", "completion": 7}])
    code, out, err = graft("dataset", "mix", "a.jsonl", "b.jsonl", "-o", "m.jsonl")
    assert code == 2 and "nothing was written" in err and not (tmp_path / "m.jsonl").exists()
    places = {line.split(": ")[0] for line in out.splitlines()}
    assert places == {"a.jsonl:1", "a.jsonl:3", "b.jsonl:1"}


def test_what_is_not_there_is_said(graft, tmp_path):
    assert graft("dataset", "split", "nothing.jsonl")[0] == 2
    write(tmp_path / "a.jsonl", rows(4))
    code, _, err = graft("dataset", "dedup", "a.jsonl", "-o", "no/such/b.jsonl")
    assert code == 2 and "no_such_folder" in err
