"""Sites say what there is; nobody gets more."""

from __future__ import annotations

import pytest

from mrdist.errors import RecipeError
from mrdist.presets import presets
from mrdist.site import DEVICES, read


@pytest.mark.parametrize("name", presets("site"))
def test_shipped_sites_can_be_read(name):
    site = read(name)
    assert site.name == name
    assert site.allocation().ranks == site.nodes * site.gpus


def test_a_job_gets_a_part_of_the_site():
    job = read("example").allocation(nodes=2, gpus=4, memory=40)
    assert (job.ranks, job.device.memory, job.device.bf16) == (8, 40, DEVICES["h100"].bf16)
    assert read("example").allocation(nodes=1).rate > job.rate, "between nodes is slower"


def test_a_job_gets_no_more_than_there_is():
    with pytest.raises(RecipeError, match=r"nodes: got 500, wanted 1 to 128, what site example has. Try: nodes=128"):
        read("example").allocation(nodes=500)


def test_a_key_that_does_not_exist_is_refused_with_the_nearest(tmp_path):
    (tmp_path / "mine.yaml").write_text("partitoin: train\n")
    with pytest.raises(RecipeError, match="did you mean 'partition'"):
        read(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("line", ["nodes: many", "gpus: 1.5", "hours: -1", "partition: 7", "cores: true"])
def test_a_value_of_another_type_is_refused(tmp_path, line):
    (tmp_path / "mine.yaml").write_text(line + "\n")
    with pytest.raises(RecipeError, match=f"mine.yaml: {line.split(':')[0]}"):
        read(str(tmp_path / "mine.yaml"))


def test_a_device_that_nobody_knows_says_its_own_rates(tmp_path):
    (tmp_path / "mine.yaml").write_text("device: m7\nmemory: 48\n")
    with pytest.raises(RecipeError, match="'m7' without bf16, fp32"):
        read(str(tmp_path / "mine.yaml")).allocation()
    (tmp_path / "mine.yaml").write_text("device: m7\nmemory: 48\nbf16: 200\nfp32: 50\n")
    assert read(str(tmp_path / "mine.yaml")).allocation().device.fp32 == 50


def test_an_unknown_site_names_the_nearest():
    with pytest.raises(RecipeError, match="Try: site=example"):
        read("exampel")


def said(tmp_path, text):
    """What is wrong with a site file."""
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(RecipeError) as wrong:
        read(str(tmp_path / "mine.yaml"))
    return str(wrong.value)


@pytest.mark.parametrize("text", ["gpus: 8\n", "partition: train\n"])
def test_a_site_that_does_not_say_its_device_is_no_site_of_cores(tmp_path, text):
    told = said(tmp_path, text)
    assert f"device: got nothing beside {text.strip()}, wanted one of a100, h100, h200, core, or" in told
    assert told.endswith("Try: device: h100, or device: core where ranks train on cores")
    (tmp_path / "mine.yaml").write_text(f"{text}device: core\n")
    assert read(str(tmp_path / "mine.yaml")).device == "core"


def test_a_device_is_known_in_any_case(tmp_path):
    (tmp_path / "mine.yaml").write_text("device: H100\n")
    assert read(str(tmp_path / "mine.yaml")).allocation().device == DEVICES["h100"]


@pytest.mark.parametrize("value", ["24:00:00", "'24:00:00'", "2:30", "86400"])
def test_hours_are_no_time_of_day_and_no_seconds(tmp_path, value):
    told = said(tmp_path, f"hours: {value}\n")
    assert "hours: got " in told
    assert told.endswith("Try: hours: 24")


@pytest.mark.parametrize("line", ["nodes: 0", "gpus: 0", "cores: 0"])
def test_there_is_at_least_one_of_each(tmp_path, line):
    assert "wanted a whole number, at least 1" in said(tmp_path, line)


def test_setup_is_text_and_not_a_list(tmp_path):
    told = said(tmp_path, "setup: [module load cuda, export A=b]\n")
    assert "wanted text" in told
    assert "negative" not in told
    assert told.endswith("Try: setup: |, and its lines below, indented")


def test_a_key_without_a_value_says_nothing(tmp_path):
    (tmp_path / "mine.yaml").write_text("account:\nsetup:\nsbatch:\n")
    site = read(str(tmp_path / "mine.yaml"))
    assert (site.account, site.setup, site.sbatch) == ("", "", {})


def test_a_site_may_have_its_own_options_of_sbatch(tmp_path):
    (tmp_path / "mine.yaml").write_text("sbatch: {reservation: lab, mail_type: END, exclusive: false, nice: 100}\n")
    assert read(str(tmp_path / "mine.yaml")).sbatch == {"reservation": "lab", "mail-type": "END", "exclusive": False, "nice": 100}


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("partition: train", "partition: NAME, a key of the site"),
        ("time: 60", "hours: 24, a key of the site"),
        ("ntasks_per_node: 4", "mrdist submit ... gpus=4"),
        ("nodes: 4", "mrdist submit ... nodes=4"),
        ("output: mine.log", "leave it out"),
        ("mail-type: [END, FAIL]", "mail-type: VALUE"),
        ("reservation:", "reservation: VALUE"),
        ("--qos: high", "reservation: lab"),
    ],
)
def test_what_mrdist_decides_itself_is_no_option_of_a_site(tmp_path, option, remedy):
    told = said(tmp_path, f"sbatch:\n  {option}\n")
    assert f"sbatch.{option.partition(':')[0].replace('_', '-')}: got " in told
    assert told.endswith(f"Try: {remedy}")


def test_options_of_sbatch_are_a_mapping(tmp_path):
    assert said(tmp_path, "sbatch: --exclusive\n").endswith("Try: sbatch: {reservation: lab, exclusive: false}")
