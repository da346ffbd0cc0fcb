"""Jobs come back in order, from one process or several, and their errors with them."""

import math
import operator
import time
from threading import Event

import pytest

from brainmets import concurrency
from brainmets.concurrency import in_order


def test_one_worker_runs_here_lazily_and_in_order():
    seen = []
    with in_order(1) as run:
        results = iter(run(lambda n: seen.append(n) or n * n, [3, 1, 2]))
        assert seen == []
        assert next(results) == 9
        assert seen == [3]
        assert list(results) == [1, 4]


def test_an_error_comes_out_where_its_job_stands():
    with in_order(1) as run:
        results = iter(run(math.sqrt, [4, -1, 9]))
        assert next(results) == 2
        with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
            next(results)


@pytest.mark.parametrize("workers", [0, -1])
def test_fewer_than_one_worker_is_one(workers):
    with in_order(workers) as run:
        assert list(run(operator.neg, [1, 2])) == [-1, -2]


@pytest.mark.slow
def test_several_workers_keep_the_order_and_pass_errors_on():
    with in_order(2) as run:
        assert list(run(operator.neg, list(range(20)))) == [-n for n in range(20)]
        results = iter(run(math.sqrt, [4, -1, 9]))
        assert next(results) == 2
        with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
            next(results)


@pytest.mark.parametrize("count", ["1", "3"])
def test_threads_run_every_job_and_raise_its_error(count, monkeypatch):
    monkeypatch.setenv(concurrency.THREADS, count)
    done = []
    concurrency.on_threads(done.append, range(7))
    assert sorted(done) == list(range(7))
    with pytest.raises(ZeroDivisionError):
        concurrency.on_threads(lambda job: 1 / job, [1, 0])


@pytest.mark.parametrize("count", ["1", "2"])
def test_what_runs_meanwhile_gives_its_result_or_its_error(count, monkeypatch):
    monkeypatch.setenv(concurrency.THREADS, count)
    with concurrency.meanwhile(lambda: 3) as result:
        pass
    assert result() == 3
    with concurrency.meanwhile(lambda: 1 / 0) as result:
        pass
    with pytest.raises(ZeroDivisionError):
        result()


def test_it_runs_beside_the_body_and_has_ended_after_it(monkeypatch):
    monkeypatch.setenv(concurrency.THREADS, "2")
    started, done = Event(), []

    def job():
        started.set()
        time.sleep(0.2)
        done.append(1)

    with concurrency.meanwhile(job):
        assert started.wait(60)
        assert done == []
    assert done == [1]


def test_the_number_of_threads_is_as_told(monkeypatch):
    monkeypatch.setenv(concurrency.THREADS, "3")
    assert concurrency.threads() == 3
    monkeypatch.setenv(concurrency.THREADS, "many")
    assert concurrency.threads() >= 1
