"""`tsam-jax report`: the report of a study, whole or not, in shards or not."""

import dataclasses
from pathlib import Path

import tyro
from rich.console import Console

from tsam_jax.commands import Command, say
from tsam_jax.commands.study import show


@dataclasses.dataclass(frozen=True)
class Report(Command):
    """Write the report of a study, merging its shards."""

    directory: tyro.conf.Positional[Path]
    """Directory of the study."""

    def run(self, console: Console) -> int:
        """Writes report.html and report.json; returns 0, or 1 if a run diverged."""
        from tsam_jax.train.report import read_study, write_report

        page = write_report(self.directory)
        study, rows = read_study(self.directory)
        show(console, study, rows)
        say(console, f"Report: {page}")
        return 1 if any(row["diverged"] for row in rows) else 0
