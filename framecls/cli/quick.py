"""`framecls train` without a recipe: a head on a frozen encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from framecls.cli.messages import DONE, INTERRUPTED, Messages
from framecls.cli.progress import ProgressBar
from framecls.text import escape, hms

if TYPE_CHECKING:
    from framecls.report import TrainingReport
    from framecls.training.job import Job


def train_quickly(job: Job, messages: Messages, bar: ProgressBar) -> int:
    """Train a head, say on stderr how it goes and what it is worth, and return the exit status.

    Raises:
        FrameclsError: the manifest or a recording cannot be used, or the model not be written.
    """
    from framecls.report import page_path  # numpy: only once the options are right
    from framecls.training.head.run import Listener, train_head

    def note(line: str) -> None:
        bar.hide()
        messages.note(escape(line))

    try:
        with bar.hidden_at_end():
            report = train_head(job, Listener(bar.show, note))
    except KeyboardInterrupt:
        messages.error(f"interrupted; what was heard is kept in {escape(str(job.folder))} for the next run")
        return INTERRUPTED
    report.save_page(page_path(job.output))
    report_result(report, job, messages)
    return DONE


def report_result(report: TrainingReport, job: Job, messages: Messages) -> None:
    """Say what a model is worth, and where it is."""
    from framecls.report import page_path, report_path

    spread = f" ± {report.score.spread:.2f} over {len(report.folds)} folds" if len(report.folds) > 1 else ""
    messages.note(f"{report.score_name}: {report.score.mean:.3f}{spread} ({escape(report.split)})")
    for line in report.verdict:
        messages.note(escape(line))
    messages.note(
        f"{escape(str(job.output))}: {escape(report.way)}, in {hms(report.seconds)}; "
        f"all figures: {escape(str(report_path(job.output)))}"
    )
    messages.note(f"to look at and listen to: {escape(str(page_path(job.output)))}")
