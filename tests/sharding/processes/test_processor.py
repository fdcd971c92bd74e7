import os
from pathlib import Path

import pytest

from flaxmill.sharding.processes.processor import (
    count_threads,
    limit_threads,
    processor_kind,
    spare_threads,
)


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 4, 6}, raising=False)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, 4),
        ({"NPROC": "2"}, 2),
        ({"NPROC": "2", "PJRT_NPROC": "3"}, 3),
        ({"NPROC": "16"}, 4),  # a program is not divided among more threads than cores
        ({"NPROC": "1", "JAX_NUM_CPU_DEVICES": "3"}, 3),
        ({"NPROC": "1", "JAX_NUM_CPU_DEVICES": "8"}, 4),
        ({"JAX_NUM_CPU_DEVICES": "2"}, 4),
        ({"NPROC": "0"}, 1),
        ({"NPROC": "two"}, 4),
        ({"NPROC": ""}, 4),
    ],
)
def test_threads_are_counted_as_xla_counts_them(
    four_cores: None, environ: dict[str, str], expected: int
) -> None:
    assert count_threads(environ) == expected


def test_where_nothing_binds_a_process_all_cores_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert count_threads({}) == 7


def test_a_limit_is_what_is_counted_then(four_cores: None) -> None:
    environ = {"NPROC": "3"}
    limit_threads(environ, 2)
    assert count_threads(environ) == 2


def test_devices_that_wait_for_each_other_have_threads_to_wait_in(four_cores: None) -> None:
    environ = {"JAX_NUM_CPU_DEVICES": "8"}
    spare_threads(environ)
    assert int(environ["PJRT_NPROC"]) >= 6 * 8
    assert count_threads(environ) == 4  # programs are divided as before
    of_a_job: dict[str, str] = {}
    spare_threads(of_a_job, num_processes=2)
    assert int(of_a_job["PJRT_NPROC"]) >= 6


@pytest.mark.parametrize(
    "environ", [{}, {"JAX_NUM_CPU_DEVICES": "1"}, {"JAX_NUM_CPU_DEVICES": "8", "NPROC": "2"}]
)
def test_one_device_and_a_user_s_own_number_stay_as_they_are(environ: dict[str, str]) -> None:
    before = dict(environ)
    spare_threads(environ)
    assert environ == before


X86 = "vendor_id: A\nmodel name: {model}\ncpu MHz: {mhz}\nflags: fpu sse{more}\n"


def test_a_kind_of_processor_is_told_by_model_and_features_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def kind(model: str = "B", mhz: str = "2000", more: str = "") -> str:
        text = X86.format(model=model, mhz=mhz, more=more)
        text += "\n" + text.replace("2000", "2100")  # a second core
        monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
        return processor_kind()

    assert kind() == kind(mhz="1500")
    assert len({kind(), kind(model="C"), kind(more=" avx2")}) == 3


def test_a_system_without_a_list_of_processors_has_a_kind_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    assert processor_kind() == processor_kind() != ""
