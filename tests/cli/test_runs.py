"""The commands on runs, as a newcomer types them; bad input is one paragraph, exit code 2, and nothing half-written."""

import json
import subprocess
import sys

import numpy as np
import pytest

RNG = np.random.Generator(np.random.Philox(8))
QUICK = ["--set", "training.steps=40", "--set", "training.batch=32", "--set", "network.width=16", "--set", "network.blocks=1"]
QUICK += ["--set", "training.precision=float32"]


def undrift(*arguments, cwd=None):
    command = [sys.executable, "-m", "undrift", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=cwd, check=False)


def table(file, rows=600):
    lines = [f"{i % 50},{2.5 * (i % 50) + RNG.normal():.3f},{'ab'[i % 2]}" for i in range(rows)]
    file.write_text("age,dose,group\n" + "\n".join(lines) + "\n")
    return file


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    table(folder / "own.csv")
    done = undrift("fit", "own.csv", "--condition", "group", *QUICK, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "age" in done.stderr  # what the data were taken for
    assert "undrift sample runs/own" in done.stdout  # what to do next
    return folder


def test_samples_come_as_a_table_like_the_data(home):
    done = undrift("sample", "runs/own", "-n", 7, "--where", "group=b", "--steps", 5, cwd=home)
    assert done.returncode == 0, done.stderr
    lines = (home / "runs" / "own" / "samples.csv").read_text().splitlines()
    assert lines[0] == "age,dose,group"
    assert len(lines) == 8
    assert all(line.endswith(",b") and line.split(",")[0].isdigit() for line in lines[1:])


def test_one_row_of_conditions_each(home):
    (home / "asked.csv").write_text("group\na\nb\nb\n")
    done = undrift("sample", "runs/own", "--where-file", "asked.csv", "--steps", 4, "--out", "three.csv", "--json", cwd=home)
    assert json.loads(done.stdout) == {"samples": "three.csv", "n": 3, "calls": 4}
    assert [line[-1] for line in (home / "three.csv").read_text().splitlines()[1:]] == ["a", "b", "b"]


def test_as_few_calls_as_an_error_takes(home):
    early = undrift("sample", "runs/own", "--tolerance", 0.1, cwd=home)
    assert (early.returncode, "model.tune(calls=8)" in early.stderr) == (2, True)
    done = undrift("tune", "runs/own", "--calls", 4, "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    (calls, median, _), usual, *curve = json.loads(done.stdout)["errors"]
    assert (calls, usual[0], median <= usual[1]) == (4, 4, True)
    worst = max(median, *(error[1] for error in curve))
    done = undrift("sample", "runs/own", "-n", 5, "--tolerance", worst, "--trust", "--json", cwd=home)
    said = json.loads(done.stdout)
    assert said["calls"] == min(n for n, error in [(4, median), *((e[0], e[1]) for e in curve)] if error <= worst)
    assert 0 < said["discretisation"]["median"] <= said["discretisation"]["largest"]
    told = undrift("sample", "runs/own", "-n", 5, "--steps", 6, "--trust", cwd=home).stdout
    assert "5 samples of 6 network calls each" in told
    assert "discretisation error, by twice the calls" in told


def test_pictures_come_as_png_with_the_way_they_came(tmp_path):
    images = RNG.integers(0, 256, (60, 6, 5), dtype=np.uint8)
    np.savez(tmp_path / "shades.npz", x=images, y=np.arange(60) % 3)
    sets = ["--set", "training.steps=5", "--set", "training.batch=8", "--set", "network.widths=[16]"]
    assert undrift("fit", "shades.npz", *sets, cwd=tmp_path).returncode == 0
    twice = undrift("sample", "runs/shades", "--where", "class=0", "--where", "class=1", cwd=tmp_path)
    assert "names 'class' twice" in twice.stderr
    command = ["sample", "runs/shades", "-n", 3, "--where", 'class=["0", 1, 2]', "--steps", 4, "--trace", "way.png"]
    done = undrift(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(f.name for f in (tmp_path / "runs/shades/samples").iterdir()) == ["0-0.png", "1-1.png", "2-2.png"]
    assert (tmp_path / "way.png").read_bytes().startswith(b"\x89PNG")
    np.save(tmp_path / "one.npy", images[:1])
    command = ["sample", "runs/shades", "-n", 2, "--like", "one.npy", "--strength", 0.3, "--steps", 4, "--out", "near.npy"]
    done = undrift(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "near.npy").shape == (2, 6, 5)


def test_evidence_and_report(home):
    done = undrift("report", "runs/own", "--steps", 5, "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["evidence"] == json.loads((home / "runs/own/evidence.json").read_text())
    assert "sliced W2" in (home / found["report"]).read_text()
    shown = undrift("evaluate", "runs/own", "--steps", 5, "-n", 100, cwd=home)
    assert "floor (real" in shown.stdout


def spoil(folder, name, content):
    (folder / name).write_bytes(content)
    return name


def bad_table(text):
    return lambda folder: ["fit", spoil(folder, "bad.csv", text.encode())]


def truncated(folder):
    from PIL import Image

    (folder / "pictures").mkdir()
    for i in range(4):
        Image.fromarray(RNG.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(folder / "pictures" / f"{i}.png")
    file = folder / "pictures" / "2.png"
    file.write_bytes(file.read_bytes()[:60])
    return ["fit", "pictures"]


def nan_array(folder):
    x = RNG.normal(size=(40, 3))
    x[17, 1] = np.nan
    np.save(folder / "x.npy", x)
    return ["fit", "x.npy"]


def misspelt(folder):
    table(folder / "t.csv", 40)
    return ["fit", "t.csv", "--set", "training.bach=3"]


def recipe(folder):
    (folder / "recipe.json").write_text('{"undrift": 2, "sead": 1}')
    return ["fit", "recipe.json"]


def empty(folder):
    (folder / "nothing").mkdir()
    return ["fit", "nothing"]


def foreign(folder):
    (folder / "run").mkdir()
    (folder / "run" / "model.safetensors").write_bytes(b"PK")
    (folder / "run" / "recipe.json").write_text('{"model_type": "unet"}')
    return ["sample", "run"]


BAD = {
    "a folder without pictures": (empty, ["nothing"]),
    "a truncated picture": (truncated, ["2.png"]),
    "text in a column of numbers": (
        bad_table("a,b\n" + "".join(f"{i},{i * 2}\n" for i in range(500)) + "oops,3\n"),
        ["oops", "501"],
    ),
    "no rows": (bad_table("a,b\n"), ["bad.csv"]),
    "nothing to learn": (bad_table("a,b\n" + "1,\n" * 30), ["a", "b"]),
    "NaN in an array": (nan_array, ["17"]),
    "a misspelt setting": (misspelt, ["did you mean 'batch'"]),
    "a misspelt recipe key": (recipe, ["did you mean 'seed'"]),
    "a foreign checkpoint": (foreign, ["not written by undrift"]),
    "a file that is not there": (lambda folder: ["fit", "missing.csv"], ["missing.csv"]),
    "a column that is not there": (lambda folder: ["fit", str(table(folder / "t.csv", 40)), "--condition", "doze"], ["'dose'"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_paragraph_and_loses_nothing(tmp_path, name):
    make, words = BAD[name]
    command = make(tmp_path)
    before = sorted(str(f) for f in tmp_path.rglob("*"))
    done = undrift(*command, cwd=tmp_path)
    assert done.returncode == 2, (done.stdout, done.stderr)
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("undrift: ")
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in said
    assert sorted(str(f) for f in tmp_path.rglob("*")) == before


def test_an_unknown_class_and_column_in_where(home):
    for where, words in (("group=c", ["'c'", "'a', 'b'"]), ("grup=a", ["did you mean 'group'"])):
        done = undrift("sample", "runs/own", "--where", where, cwd=home)
        assert done.returncode == 2
        assert all(word in done.stderr for word in words), done.stderr


def test_a_run_that_is_repeated_says_where_it_is(home):
    done = undrift("fit", "runs/own/recipe.json", "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"].endswith("runs/own-again")
    refused = undrift("fit", "runs/own/recipe.json", "--minutes", 5, cwd=home)
    assert refused.returncode == 2
    assert "a recipe says minutes already" in refused.stderr


def test_an_interrupt_says_how_to_go_on(home):
    import signal
    import time

    table(home / "long.csv")
    command = [sys.executable, "-m", "undrift", "fit", "long.csv", *QUICK[2:], "--set", "training.steps=1000000"]
    training = subprocess.Popen(command, cwd=home, stderr=subprocess.PIPE, text=True)
    metrics, deadline = home / "runs" / "long" / "metrics.jsonl", time.monotonic() + 60
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    training.send_signal(signal.SIGINT)
    said = training.communicate(timeout=60)[1]
    assert training.returncode == 130
    assert "go on with: undrift fit runs/long/recipe.json" in said
    assert "Traceback" not in said
