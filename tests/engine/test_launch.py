"""Places of processes in a job, attempts of it, and lost ranks; see test_kill_restarts.py too."""

import argparse
import socket
import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from torch.distributed import DistNetworkError, PrefixStore, TCPStore

from ita.engine.launch import Failures, one_line, place_in_job, starts_rank_0, waiting
from ita.engine.launch.attempts import agree_on_attempt
from ita.engine.launch.place import Place
from ita.engine.launch.restarts import is_restarted, mark_begun
from ita.engine.launch.slurm import first_host
from ita.engine.launch.waiting import lost_ranks_named, name_ranks, open_store
from ita.errors import UserError

# Variables of jobs that are started again: their name, and how often they were.
SUBMITTED = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
REQUEUED = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT")
ARGUMENTS = argparse.Namespace(num_gpus=1, num_machines=1, machine_rank=0)
SRUN = {
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_PROCID": "11",
    "SLURM_LOCALID": "3",
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}


@pytest.fixture
def store():
    return TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=10))


def place_of(store, rank=0, **more):
    settings = {"local_rank": rank, "local_size": 2, "device": 0, "option": ""}
    settings |= {"world_size": 2, "address": "127.0.0.1", "hosts_store": False}
    return Place(rank=rank, port=store.port, **{**settings, **more})


def set_variables(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_tasks_of_srun(monkeypatch):
    assert place_in_job(ARGUMENTS) is None
    set_variables(monkeypatch, **SRUN)
    place = place_in_job(ARGUMENTS)
    assert (place.rank, place.world_size, place.local_rank, place.local_size) == (11, 16, 3, 8)
    assert (place.address, place.device) == ("gpu07", 3)
    assert not starts_rank_0(ARGUMENTS)
    set_variables(monkeypatch, SLURM_GPUS_PER_TASK="1")
    assert place_in_job(ARGUMENTS).device == 0


def test_launchers_inside_of_srun_go_first(monkeypatch):
    set_variables(monkeypatch, **SRUN)
    own = argparse.Namespace(num_gpus=8, num_machines=2, machine_rank=1)
    assert place_in_job(own) is None
    with pytest.raises(UserError, match="16 tasks, each with --num-gpus 8"):
        place_in_job(argparse.Namespace(num_gpus=8, num_machines=1))
    torchrun = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    set_variables(monkeypatch, **torchrun, MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    assert place_in_job(ARGUMENTS).world_size == 2


def test_machines_with_different_numbers_of_tasks_are_refused(monkeypatch):
    set_variables(monkeypatch, **{**SRUN, "SLURM_STEP_TASKS_PER_NODE": "8,4"})
    with pytest.raises(UserError, match="started 8,4 tasks"):
        place_in_job(ARGUMENTS)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("vm", "vm"),
        ("gpu[03-05,9],login1", "gpu03"),
        ("a1,a2", "a1"),
        ("r[1,3]n", "r1n"),
        ("node-12", "node-12"),
    ],
)
def test_first_host(nodes, host):
    assert first_host(nodes) == host


def agree(store, world_size=2):
    """Names of an attempt that all ranks agree on, started in the order that leaves stale keys."""
    names = {}

    def join(rank):
        own = TCPStore("127.0.0.1", store.port, timeout=timedelta(seconds=10))
        names[rank] = agree_on_attempt(own, rank, world_size, 10)

    threads = [threading.Thread(target=join, args=(rank,)) for rank in reversed(range(world_size))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return set(names.values())


def test_ranks_agree_on_a_name_that_no_attempt_had(store):
    store.set("ita/question/1", "of a rank that was killed")
    names = [agree(store, 3) for _ in range(3)]
    assert [len(name) for name in names] == [1, 1, 1]
    assert len(set.union(*names)) == 3


@pytest.mark.parametrize(("rank", "missing"), [(0, "rank 1 of 2"), (1, "rank 0 of 2")])
def test_a_rank_that_does_not_start_is_named(rank, missing, store):
    with pytest.raises(UserError, match=f"{missing} did not start within 0.1 s"):
        agree_on_attempt(store, rank, 2, 0.1)


def test_a_store_that_does_not_answer(store):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = replace(place_of(store, 1, hosts_store=True), port=port)
    with pytest.raises(UserError, match="rank 0 did not answer rank 1 at"):
        open_store(place, 0.2)


def test_a_port_in_use_is_named(store):
    with pytest.raises(UserError, match="is in use by another job"):
        open_store(place_of(store, hosts_store=True), 0.2)


@pytest.mark.parametrize("error", [RuntimeError("gloo/pair.cc: closed"), DistNetworkError("x")])
def test_lost_ranks_are_named(error, store, monkeypatch):
    monkeypatch.setattr(waiting, "ROLL_CALL_SECONDS", 0.1)
    with (
        pytest.raises(UserError, match="rank 1 of 2 died or did nothing for 7 s"),
        lost_ranks_named(PrefixStore("a", store), place_of(store), 7),
    ):
        raise error


def test_other_errors_are_not_of_communication(store):
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        lost_ranks_named(store, place_of(store), 7),
    ):
        raise RuntimeError("out of memory")


def test_many_ranks_are_counted():
    assert name_ranks([3], 4) == "rank 3 of 4"
    assert name_ranks(range(20), 64) == "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 12 more of 64"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Folder of a run, without variables of a launcher."""
    for name in (*SUBMITTED, *REQUEUED):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_torchrun_continues_what_it_has_begun(folder, store):
    place = place_of(store)
    assert not is_restarted(folder, place)
    mark_begun(folder, place)
    assert is_restarted(folder, place)
    assert not is_restarted(folder / "other", place)
    later = TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=10))
    assert not is_restarted(folder, place_of(later))


@pytest.mark.parametrize("variables", [SUBMITTED, REQUEUED], ids=["submitted", "requeued"])
def test_a_job_continues_what_it_has_begun(variables, folder, monkeypatch):
    name, restarts = variables
    for number in ("0", "1"):  # the first start may end before it has begun
        set_variables(monkeypatch, **{name: "submitit 1234", restarts: number})
        assert not is_restarted(folder, None)
    mark_begun(folder, None)
    assert not is_restarted(folder, None)  # another command of the same start
    set_variables(monkeypatch, **{restarts: "2"})
    assert is_restarted(folder, None)
    set_variables(monkeypatch, **{name: "submitit 1235"})
    assert not is_restarted(folder, None)


def test_a_folder_is_of_the_last_job_that_has_begun_in_it(folder, monkeypatch):
    name, restarts = REQUEUED
    set_variables(monkeypatch, **{name: "1234", restarts: "0"})
    mark_begun(folder, None)
    monkeypatch.delenv(name)
    mark_begun(folder, None)  # a command without a launcher
    set_variables(monkeypatch, **{name: "1234", restarts: "1"})
    assert not is_restarted(folder, None)


def test_the_first_failure_is_reported(store):
    ranks = [Failures(), Failures()]
    for rank, failures in enumerate(ranks):
        failures.count_in(PrefixStore("attempt", store), place_of(store, rank))
    assert [failures.add(1) for failures in ranks] == [1, 2]
    later = Failures()
    later.count_in(PrefixStore("another attempt", store), place_of(store))
    assert later.add(1) == 1


def test_without_rank_0_and_its_store_one_process_of_each_machine_reports():
    lost = TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=10))
    joined = TCPStore("127.0.0.1", lost.port, timeout=timedelta(seconds=10))
    places = [
        place_of(lost, rank, local_rank=rank % 4, local_size=4, world_size=8, hosts_store=True)
        for rank in range(1, 8)
    ]
    del lost
    counts = {}
    for place in places:
        failures = Failures()
        failures.count_in(joined, place)
        counts[place.rank] = failures.add(1)
    assert [rank for rank, count in counts.items() if count == 1] == [1, 4]


def test_before_they_meet_the_first_process_of_each_machine_reports(monkeypatch):
    monkeypatch.setattr(one_line, "_SECONDS_TO_REPORT", 0.0)
    assert Failures().add(1) == 1
    for rank, local_rank, count in (("0", "0", 1), ("11", "3", 2), ("8", "0", 1)):
        set_variables(monkeypatch, **{**SRUN, "SLURM_PROCID": rank, "SLURM_LOCALID": local_rank})
        assert Failures().add(1) == count
        assert Failures().add(0) == 0  # of an unexpected error, all tell
