"""A small run of the fuzz, and its table."""

import fuzz


def test_nothing_is_read_wrongly_and_nothing_raises_another_error():
    said = []
    counts = fuzz.run(25 * len(fuzz.KINDS), 0, said.append)
    assert said == []
    for kind, found in counts.items():
        assert sum(found.values()) == 25, kind
        assert min(found["right"], found["refused clearly"]) > 0, kind


def test_the_table_and_the_exit_status(monkeypatch, capsys):
    kinds = {"a": lambda *_: ("right", ""), "b": lambda seed, i, root: ("traceback", f"{i}!")}
    monkeypatch.setattr(fuzz, "KINDS", kinds)
    assert fuzz.main(["--inputs", "3"]) == 1
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0].startswith("| kind | inputs | refused clearly | right |")
    assert lines[2:5] == [
        "| a | 2 | 0 | 2 | 0 | 0 | 0 |",
        "| b | 1 | 0 | 0 | 0 | 1 | 0 |",
        "| all | 3 | 0 | 2 | 0 | 1 | 0 |",
    ]
    assert shown.err == "traceback: b, input 1: 1!\n"
    monkeypatch.setattr(fuzz, "KINDS", {"a": lambda *_: ("refused clearly", "")})
    assert fuzz.main(["--inputs", "3"]) == 0
