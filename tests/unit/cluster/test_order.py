"""What sbatch is asked for, and what is refused before it is asked."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from mrdist.errors import RecipeError
from mrdist_cluster import slurm
from mrdist_cluster.order import Order

SITE = """
partition: train
account: lab
hours: 24
nodes: 16
gpus: 8
cores: 96
host: 1000
device: h100
setup: |
  module load cuda
  export NCCL_SOCKET_IFNAME=ib0
"""


@pytest.fixture
def site(tmp_path: Path) -> str:
    (tmp_path / "site.yaml").write_text(SITE)
    return str(tmp_path / "site.yaml")


def lines(text: str) -> dict[str, str]:
    """The #SBATCH lines of a script."""
    return {name: value or "yes" for name, value in re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", text, re.MULTILINE)}


def test_whole_nodes_are_asked_for_with_all_they_have(site: str, tmp_path: Path) -> None:
    text = Order.of({"site": site, "nodes": "4"}).script(1, tmp_path, "mrd-base")
    asked = lines(text)
    wanted = {
        "nodes": "4", "ntasks-per-node": "8", "gpus-per-node": "8", "cpus-per-task": "12", "mem": "0", "exclusive": "yes", "time": "1440",
        "partition": "train", "account": "lab", "requeue": "yes", "signal": "USR2@300", "open-mode": "append", "job-name": "mrd-base",
    }  # fmt: skip
    assert {name: asked[name] for name in wanted} == wanted
    assert "array" not in asked
    assert "wckey" not in asked
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    assert text.index("module load cuda\nexport NCCL_SOCKET_IFNAME=ib0") < text.index("srun")


def test_a_part_of_a_node_takes_its_share_of_memory_and_leaves_the_rest(site: str, tmp_path: Path) -> None:
    asked = lines(Order.of({"site": site, "gpus": "2", "hours": "0.5"}).script(1, tmp_path, "x"))
    assert (asked["gpus-per-node"], asked["mem"], asked["time"], asked["nodes"]) == ("2", "250G", "30", "1")
    assert "exclusive" not in asked


def test_several_runs_are_one_array_with_its_limit(site: str, tmp_path: Path) -> None:
    assert lines(Order.of({"site": site}, parallel=3).script(6, tmp_path, "x"))["array"] == "0-5%3"


def test_the_options_of_a_site_come_last_and_take_away_what_we_say(site: str, tmp_path: Path) -> None:
    with Path(site).open("a") as file:
        file.write("sbatch: {reservation: lab, exclusive: user, mem: false, gpus-per-node: false, gres: 'gpu:8', oversubscribe: true}")
    order = Order.of({"site": site})
    asked = lines(order.script(1, tmp_path, "x"))
    wanted = {"reservation": "lab", "exclusive": "user", "gres": "gpu:8", "oversubscribe": "yes", "requeue": "yes"}
    assert {name: asked[name] for name in wanted} == wanted
    assert not {"mem", "gpus-per-node"} & asked.keys()
    assert lines(order.script(2, tmp_path, "x"))["reservation"] == "lab", "of arrays, too"


def test_a_site_of_cores_asks_for_no_gpus(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("nodes: 3\ngpus: 2\ncores: 8\ndevice: core\n")
    asked = lines(Order.of({"site": str(tmp_path / "site.yaml")}).script(1, tmp_path, "x"))
    assert "gpus-per-node" not in asked
    assert (asked["ntasks-per-node"], asked["cpus-per-task"]) == ("2", "4")


def test_what_a_shell_exports_in_vain_is_known(site: str) -> None:
    with Path(site).open("a") as file:
        file.write("sbatch: {mail-type: END}\n")
    shell = ["SBATCH_RESERVATION", "SBATCH_PARTITION", "SBATCH_QOS", "SBATCH_MAIL_TYPE", "SLURM_JOB_ID", "PATH"]
    assert Order.of({"site": site}).unheard(shell) == ["SBATCH_RESERVATION"]
    assert Order.of({"site": "local"}).unheard(shell) == []


def ran(tmp_path: Path, setup: str) -> subprocess.CompletedProcess[str]:
    """What bash makes of a job's script with a site's setup, where srun only says that it was called."""
    (tmp_path / "quiet.sh").write_text("false\nexport OF_A_FILE=1\n")
    (tmp_path / "site.yaml").write_text("device: core\nsetup: |\n" + "".join(f"  {line}\n" for line in setup.splitlines()))
    script = tmp_path / "job.sh"
    script.write_text(Order.of({"site": str(tmp_path / "site.yaml")}).script(1, tmp_path, "x").replace("\nsrun ", "\necho srun "))
    return subprocess.run(["bash", script], capture_output=True, text=True, cwd=tmp_path, check=False)


@pytest.mark.parametrize(
    "line", ["nosuch load 'cuda'", "source nowhere.sh", "(exit 3)", "module load cuda", "false && true; export A=$(false); B=$(false)"]
)
def test_a_line_of_setup_that_fails_ends_the_job_and_is_named(tmp_path: Path, line: str) -> None:
    done = ran(tmp_path, f"module() {{ ls /nowhere; return 2; }}\n{line}\necho later")
    assert done.returncode not in (0, None)
    assert f"error: setup of the site: got exit code {done.returncode} from: {line}, wanted 0. Try: " in done.stderr
    assert "later" not in done.stdout
    assert "srun" not in done.stdout


def test_setup_that_works_may_fail_within(tmp_path: Path) -> None:
    lines = [
        "module() { false; export LOADED=1; }",
        "module load",
        "source ./quiet.sh",
        "if false; then true; fi",
        "false || echo $OF_A_FILE$LOADED",
    ]
    done = ran(tmp_path, "\n".join(lines))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("11\nsrun ")
    assert not done.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"nodes": "17"}, "wanted 1 to 16"),
        ({"hours": "48"}, "at most 24 at site site. Try: hours=24"),
        ({"nodes": "two"}, "a number above 0"),
        ({"nodes": "0"}, "a number above 0"),
        ({"gpus": "1.5"}, "a number above 0"),
        ({"walltime": "x"}, "one of site, nodes, gpus, hours"),
        ({"partition": "x"}, "a line of the site file. Try: site=my.yaml, and in it partition: x"),
        ({"reservation": "x"}, "a line of the site file. Try: site=my.yaml, and in it sbatch: {reservation: x}"),
    ],
)
def test_what_the_site_has_not_is_refused(site: str, words: dict[str, str], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        Order.of({"site": site, **words})


def test_without_a_site_nothing_begins_on_a_login_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "here", lambda: True)
    with pytest.raises(RecipeError, match="where there is a Slurm"):
        Order.of({})
    monkeypatch.setattr(slurm, "here", lambda: False)
    assert Order.of({}).local
