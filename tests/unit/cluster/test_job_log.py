"""What `mrdist why` and `mrdist logs` say of a job in which no rank has spoken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mrdist.cli.main import DONE, YOURS, main
from mrdist_cluster.runs import Submitted, note


def given(run: Path, job: str, said: str) -> None:
    """As submitit names the log of a job."""
    log = run.parent / ".submitted" / f"{job}_0_log.out"
    log.parent.mkdir(exist_ok=True)
    log.write_text(said)
    note(run, Submitted(job, str(log)))


@pytest.mark.parametrize("job", ["88121", "88122_3"])
def test_a_job_that_ended_before_its_ranks_is_known_by_its_log(run: Path, job: str, capsys: pytest.CaptureFixture[str]) -> None:
    given(run, job, "error: setup of the site: got exit code 127 from: nosuch load\n")
    assert main(["why", str(run)]) == DONE
    said = capsys.readouterr().out
    assert "failed, step 0" in said
    assert "the last of job:\n  error: setup of the site: got exit code 127" in said
    assert main(["logs", str(run)]) == DONE
    assert capsys.readouterr().out == "job: error: setup of the site: got exit code 127 from: nosuch load\n"


def test_what_ranks_of_an_earlier_job_said_last_is_not_what_ended_this_one(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "ranks").mkdir()
    (run / "ranks" / "0000.out").write_text("stopped after step 7\n")
    os.utime(run / "ranks" / "0000.out", (1e9, 1e9))
    given(run, "88121", "error: setup of the site\n")
    assert main(["why", str(run)]) == DONE
    assert "the last of job:\n  error: setup of the site" in capsys.readouterr().out
    (run / "ranks" / "0000.out").write_text("stopped after step 9\n")
    assert main(["why", str(run)]) == DONE
    assert "the last of 0:\n  stopped after step 9" in capsys.readouterr().out


def test_a_run_of_which_nobody_has_spoken_has_no_log(run: Path) -> None:
    note(run, Submitted("88121", str(run.parent / "none.out")))
    assert main(["logs", str(run)]) == YOURS
