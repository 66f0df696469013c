"""The table of a run, put at the end of the file of results."""
import datetime

HEAD = """# Random users against a model

`python3 tests/long/random sync|crowd|federation --seeds A..B --steps N --engine E --baseline tests/baseline/random.md` adds a table.
"""


def add_table(file, what, version, engine, rows):
    text = file.read_text(encoding="utf-8") if file.exists() else HEAD
    lines = ["", f"## {what}, {engine}, {datetime.date.today().isoformat()}", "", version, "", "| seed | steps | looked at | found |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    file.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")
