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
