"""The runtime around the kernels: threads, fork, Ctrl-C, memory, instruction sets. What could end a process is tried in one of its own."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

import ruvattn
from ruvattn import errors, isa, threads
from ruvattn.kernels import cpu

ROOT = Path(ruvattn.__file__).parents[1]

SETUP = """
    import os, signal, sys, threading, time
    import numpy as np
    import ruvattn

    def arrays(*shape, dtype=np.float32):
        return np.random.default_rng(0).standard_normal((3, *shape)).astype(dtype)

    def ending(thread):     # one that has been joined may still stand there
        try:
            with open(f"/proc/self/task/{thread}/stat") as stat:
                return bool(int(stat.read().rpartition(")")[2].split()[6]) & 4)     # PF_EXITING
        except OSError:
            return True

    def team():
        return sum(not ending(thread) for thread in os.listdir("/proc/self/task"))

    class NumpyDot(ruvattn.Score):
        def logits(self, t):
            return t.dots[0]

    SMALL = arrays(2, 5, 8)
    LARGE = arrays(8, 256, 64)      # worth a team of threads
"""

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def finish(code: str, timeout: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code after SETUP in a fresh interpreter; one that hangs fails the test."""
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    environ = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "RUVATTN_ISA")}
    return subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", textwrap.dedent(SETUP) + textwrap.dedent(code)],
        env={**environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def run(code: str, timeout: float = 60, **environment: str) -> str:
    """Return what the code prints; it has to end well."""
    result = finish(code, timeout, **environment)
    assert result.returncode == 0, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout.strip()


@pytest.fixture
def arrays():
    return np.random.default_rng(0).standard_normal((3, 8, 256, 64)).astype(np.float32)


class NumpyDot(ruvattn.Score):
    """The dot product, on the calling thread."""

    def __init__(self, gain=1.0):
        self.params = {"gain": gain}

    def logits(self, t):
        return t.dots[0] * t.params["gain"]


class Stripes(ruvattn.Pattern):
    """Every other key."""

    def __init__(self, step=2):
        self.step = step

    def allowed(self, i, j, *, head=0, batch=0):
        return ((i + j) % self.step) == 0


class Shifted(ruvattn.Aggregate):
    """The weighted sum, plus one."""

    def finish(self, acc):
        return acc + 1


# --- how many threads -------------------------------------------------------------------------------------------------------------


def test_the_number_of_threads_is_that_of_the_environment():
    assert run("print(ruvattn.get_num_threads())", OMP_NUM_THREADS="3") == "3"


def test_of_a_list_in_the_environment_the_first_number_counts():
    assert run("print(ruvattn.get_num_threads())", OMP_NUM_THREADS=" 5, 2") == "5"


@pytest.mark.parametrize("value", ["", "many", "0", "-2", "1.5", ","])
def test_what_is_malformed_in_the_environment_is_ignored(value, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert threads._from_environment() is None


def test_a_number_that_is_set_goes_before_the_environment():
    assert run("ruvattn.set_num_threads(2); print(ruvattn.get_num_threads())", OMP_NUM_THREADS="3") == "2"


@linux
def test_a_number_of_the_call_goes_before_one_that_is_set():
    code = """
        ruvattn.set_num_threads(1)
        ruvattn.attention(*LARGE)
        alone = team()
        ruvattn.attention(*LARGE, threads=3)
        print(alone, team() - alone)
    """
    assert run(code, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1") == "1 2"


def test_without_any_it_is_the_physical_cores_that_the_process_may_run_on():
    number = int(run("print(ruvattn.get_num_threads())"))
    assert 1 <= number <= len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else number >= 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity")
def test_a_process_that_is_bound_to_one_processor_uses_one_thread():
    assert run("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(ruvattn.get_num_threads())") == "1"


def test_hardware_threads_of_one_core_count_once(monkeypatch, tmp_path):
    for number, core in enumerate((0, 0, 1, 1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "physical_package_id").write_text("0\n")
        (folder / "core_id").write_text(f"{core}\n")

    def opened(path, *arguments):
        number = path.split("/cpu/cpu")[1].split("/")[0]
        return real_open(tmp_path / number / path.rsplit("/", 1)[1], *arguments)

    real_open = open
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(threads, "open", opened, raising=False)
    assert threads._physical_cores() == 2


def test_where_the_topology_is_unreadable_every_processor_counts(monkeypatch):
    def closed(*_):
        raise OSError

    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setattr(threads, "open", closed, raising=False)
    assert threads._physical_cores() == 3


@pytest.mark.parametrize("number", [0, -1, True, 2.5, "2", 10**9, None])
def test_set_num_threads_refuses_what_is_no_number_of_threads(number):
    before = ruvattn.get_num_threads()
    with pytest.raises(errors.InvalidInputError, match="threads must be an int from 1 to 4096"):
        ruvattn.set_num_threads(number)
    assert ruvattn.get_num_threads() == before


# --- when threads are started -----------------------------------------------------------------------------------------------------


@linux
def test_no_thread_is_started_by_the_import_or_by_a_small_call():
    code = """
        before = team()
        ruvattn.attention(*SMALL)
        ruvattn.attention(*SMALL, causal=True, threads=8)
        ruvattn.attention(*SMALL, bias=np.zeros((5, 5), np.float32), threads=8)
        ruvattn.attention_weights(*SMALL[:2], threads=8)
        print(before, team())
    """
    assert run(code, OPENBLAS_NUM_THREADS="1") == "1 1"


@linux
def test_a_numpy_score_starts_no_team():
    assert run("ruvattn.attention(*LARGE, score=NumpyDot(), threads=4); print(team())", OPENBLAS_NUM_THREADS="1") == "1"


@linux
def test_a_call_starts_no_more_threads_than_are_of_use():
    code = """
        from ruvattn.threads import MAX_THREADS, USEFUL_THREADS
        ruvattn.attention(*arrays(8, 1024, 8), threads=MAX_THREADS)
        print(team() <= USEFUL_THREADS)
    """
    assert run(code) == "True"


def test_a_failing_numpy_score_leaves_the_next_call_unharmed(arrays):
    class Fails(ruvattn.Score):
        def logits(self, t):
            raise LookupError("of the score")

    before = ruvattn.attention(*arrays)
    with pytest.raises(LookupError, match="of the score"):
        ruvattn.attention(*arrays, score=Fails())
    assert np.array_equal(ruvattn.attention(*arrays), before)


def test_calls_from_many_python_threads_give_what_one_gives(arrays):
    q, k, v = arrays
    calls = [{}, {"causal": True}, {"score": NumpyDot(0.1)}, {"mask": Stripes()}, {"aggregate": Shifted()}, {"dropout": 0.3, "seed": 7}]
    wanted = [ruvattn.attention(q, k, v, **options) for options in calls]
    wrong = []

    def work(first):
        for n in range(2 * len(calls)):
            at = (first + n) % len(calls)
            if not np.array_equal(ruvattn.attention(q, k, v, threads=1 + n % 3, **calls[at]), wanted[at]):
                wrong.append(at)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_one_score_instance_serves_calls_of_different_shapes_at_once(arrays):
    score = NumpyDot(0.2)
    parts = [tuple(x[:, : 40 + 8 * n] for x in arrays) for n in range(6)]
    wanted = [ruvattn.attention(*part, score=score) for part in parts]
    found = [None] * len(parts)

    def work(at):
        for _ in range(5):
            found[at] = ruvattn.attention(*parts[at], score=score)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(len(parts))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_a_score_may_call_attention_itself(arrays):
    q, k, v = (x[:2, :20] for x in arrays)

    class Nested(ruvattn.Score):
        def logits(self, t):
            ruvattn.attention(q, k, v, threads=2)
            return t.dots[0]

    assert np.array_equal(ruvattn.attention(q, k, v, score=Nested()), ruvattn.attention(q, k, v, score=NumpyDot()))


# --- fork -------------------------------------------------------------------------------------------------------------------------

CHILD = """
    def child(threads=2):
        pid = os.fork()
        if pid == 0:
            good = np.array_equal(ruvattn.attention(*LARGE, threads=threads), wanted)
            os._exit(0 if good else 3)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    wanted = ruvattn.attention(*LARGE, threads=2)
"""


@forks
def test_a_child_computes_after_the_parent_has_had_a_team():
    code = "print(child(), child(3), np.array_equal(ruvattn.attention(*LARGE, threads=2), wanted), child())"
    assert run(textwrap.dedent(CHILD) + code) == "0 0 True 0"


@forks
def test_a_grandchild_computes_too():
    code = """
        pid = os.fork()
        if pid == 0:
            os._exit(child() or 0 if np.array_equal(ruvattn.attention(*LARGE, threads=2), wanted) else 4)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    assert run(textwrap.dedent(CHILD) + textwrap.dedent(code)) == "0"


@forks
def test_a_child_of_another_thread_computes():
    code = """
        results = []
        def fork_from_here(first):
            if first:
                ruvattn.attention(*LARGE, threads=2)
            results.append(child())
        for first in (False, True):
            worker = threading.Thread(target=fork_from_here, args=(first,))
            worker.start()
            worker.join()
        print(results)
    """
    assert run(textwrap.dedent(CHILD) + textwrap.dedent(code)) == "[0, 0]"


@forks
def test_a_child_computes_that_was_made_while_another_thread_was_inside_attention():
    code = """
        stop = False
        def busy():
            while not stop:
                assert np.array_equal(ruvattn.attention(*LARGE, threads=2), wanted)
        worker = threading.Thread(target=busy)
        worker.start()
        results = {child() for _ in range(15)}
        alive = worker.is_alive()
        stop = True
        worker.join()
        print(results, alive)
    """
    assert run(textwrap.dedent(CHILD) + textwrap.dedent(code)) == "{0} True"


@forks
def test_multiprocessing_by_fork_works_before_and_after_a_team():
    code = """
        import multiprocessing
        fork = multiprocessing.get_context("fork")
        def work(seed):
            q = np.random.default_rng(seed).standard_normal((8, 256, 64)).astype(np.float32)
            return ruvattn.attention(q, q, q, threads=2)
        def compare(pool):
            return all(np.array_equal(a, b) for a, b in zip(pool.map(work, range(4)), here))
        with fork.Pool(2) as early:
            here = [work(seed) for seed in range(4)]
            with fork.Pool(2) as late:
                print(compare(early), compare(late), compare(early))
    """
    assert run(code) == "True True True"


@forks
def test_where_openmp_cannot_be_paused_the_child_is_serial_and_its_children_are():
    code = """
        wanted = ruvattn.attention(*LARGE, threads=2)
        kernels = ruvattn.load_kernels("ruvattn.kernels.tile", "float32")

        class Stubborn:                       # a runtime in which pausing fails
            def __getattr__(self, name):
                return getattr(kernels, name)
            def pause(self):
                calls.append(os.getpid())
                return False
        calls = []
        for name in [name for name in sys.modules if name.startswith("ruvattn.kernels.tile_")]:
            sys.modules[name] = Stubborn()

        def check():
            good = np.array_equal(ruvattn.attention(*LARGE, threads=4), wanted)
            return good and team() == 1 and ruvattn.get_num_threads() == 1
        pid = os.fork()
        if pid == 0:
            good = check()
            inner = os.fork()
            if inner == 0:
                os._exit(0 if check() and len(calls) == 1 else 3)
            os._exit(0 if good and os.waitpid(inner, 0)[1] == 0 else 4)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), ruvattn.get_num_threads() > 1, len(calls))
    """
    assert run(code, OMP_NUM_THREADS="2") == "0 True 1"


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------------------

INTERRUPTED = """
    told = []
    def tell():
        time.sleep(0.4)
        told.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    def interrupted(call):
        thread = threading.Thread(target=tell)
        thread.start()
        try:
            call()
        except KeyboardInterrupt:
            waited = time.monotonic() - told[-1]
            thread.join()
            assert np.isfinite(ruvattn.attention(*LARGE)).all()
            return waited
        return None

    q = np.random.default_rng(0).standard_normal((8, 30_000, 64)).astype(np.float32)
    q = np.concatenate([q] * 8)          # a minute's work, and more
"""


@pytest.mark.parametrize(
    "call",
    [
        "ruvattn.attention(q, q, q, threads=2)",
        "ruvattn.attention(q, q, q, causal=True, bias=np.zeros(q.shape[1], np.float32), threads=1)",
        "ruvattn.attention(q, q, q, score=NumpyDot())",
        "ruvattn.attention(q, q, q, mask=ruvattn.BoolMask(np.ones((1, q.shape[1]), bool)), dropout=0.1, seed=1)",
        "[ruvattn.attention(q[:, :1], q, q) for _ in range(10**6)]",
        "ruvattn.attention(q * np.float32(1e25), q, q * np.float32(1e25), threads=2)",
        "ruvattn.attention_backward(q, q, q, q, q, np.full(q.shape[:2], 99, np.float32), threads=2)",
        "ruvattn.attention_backward(q[:1], q[:1], q[:1], q[:1], q[:1], np.full((1, q.shape[1]), 99, np.float32), bias=np.zeros((30000, 1), 'f'), "
        "wrt=['bias'], threads=1)",
    ],
    ids=["dot", "causal with bias", "numpy score", "mask with dropout", "many short calls", "wide arithmetic", "backward", "gradient of a bias"],
)
def test_ctrl_c_is_answered_between_blocks_and_the_process_goes_on(call):
    waited = run(textwrap.dedent(INTERRUPTED) + f"print(interrupted(lambda: {call}))", timeout=90)
    # Blocks take a fraction of a second: ten seconds is no measurement, but far from the end of the call.
    assert waited != "None"
    assert float(waited) < 10


# --- memory -----------------------------------------------------------------------------------------------------------------------

LIMITED = """
    import resource

    def limit(room):
        with open("/proc/self/status") as status:
            used = next(int(line.split()[1]) for line in status if line.startswith("VmSize:")) * 1024
        resource.setrlimit(resource.RLIMIT_AS, (used + room, used + room))

    def refused(call):
        try:
            call()
        except MemoryError as error:
            return bool(str(error)) and np.array_equal(ruvattn.attention(*SMALL), small)
        return False

    small = ruvattn.attention(*SMALL)
    q, k, v = arrays(8, 2048, 64)
    far = np.broadcast_to(q[:, :1], (8, 2**22, 64))
"""


@linux
@pytest.mark.parametrize(
    "call",
    [
        "ruvattn.attention(q, k, v, threads=1)",
        "ruvattn.attention(q, k, v, causal=True, sinks=np.zeros(8), threads=1)",
        "ruvattn.attention(far, k, v)",
        "ruvattn.attention_logits(q, k, threads=1)",
        "ruvattn.attention_weights(q, k, threads=1)",
        "ruvattn.attention(q, k, v, score=NumpyDot())",
        "ruvattn.attention(q, k, v, aggregate=Whole())",
    ],
)
def test_out_of_memory_is_a_memory_error_and_the_process_goes_on(call):
    code = f"""
        class Whole(ruvattn.Aggregate):
            linear = False
            def reduce(self, weights, v):
                return weights @ v
        limit(3 << 20)
        print(refused(lambda: {call}))
    """
    assert run(textwrap.dedent(LIMITED) + textwrap.dedent(code), OPENBLAS_NUM_THREADS="1") == "True"


@linux
def test_kernels_that_get_no_scratch_raise_memory_error():
    code = """
        out = np.empty_like(q[:, :32])
        wide = np.zeros((1, 64, 200_000), np.float32)
        target = np.empty_like(wide)
        limit(8 << 20)
        print(refused(lambda: ruvattn.attention(wide, wide, wide, out=target, threads=1)))
    """
    assert run(textwrap.dedent(LIMITED) + textwrap.dedent(code)) == "True"


@linux
@pytest.mark.parametrize("number", [2, 64])
def test_a_call_runs_on_the_threads_that_can_be_started(number):
    """OpenMP's runtime ends the process where there is no room for the stack of a thread."""
    code = f"""
        wanted = ruvattn.attention(q, k, v, threads=1)
        out = np.empty_like(q)
        before = team()
        limit(4 << 20)
        ruvattn.attention(q, k, v, out=out, threads={number})
        print(np.array_equal(out, wanted), team() - before)
    """
    assert run(textwrap.dedent(LIMITED) + textwrap.dedent(code), OPENBLAS_NUM_THREADS="1") == "True 0"


GROWTH = """
    def resident():
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def growth(call, times):
        for _ in range(times // 4):
            call()
        before = resident()
        for _ in range(times):
            call()
        return resident() - before

    def raising(call, kind):
        def wrapped():
            try:
                call()
            except kind:
                return
            raise AssertionError("nothing was raised")
        return wrapped

    class Fails(ruvattn.Score):
        def logits(self, t):
            raise LookupError

    class Odd(ruvattn.Pattern):
        def allowed(self, i, j, *, head=0, batch=0):
            return (i + j) % 2 == 1

    class Whole(ruvattn.Aggregate):
        linear = False
        def reduce(self, weights, v):
            return weights @ v

    q, k, v = arrays(2, 40, 64)         # 20 KB each: a leak of one of them shows at once
    half = q.astype(np.float16)
    out = np.empty_like(q)
    error = ruvattn.errors.AttentionError
    A = ruvattn.attention
    calls = dict(
        plain=lambda: A(q, k, v),
        many=lambda: A(*np.broadcast_to(q, (3, 20, *q.shape))),
        lse=lambda: A(q, k, v, return_lse=True, out=out),
        half=lambda: A(half, half, half),
        options=lambda: A(q, k, v, causal=True, window=(3, 3), key_lengths=30, bias=q[0, :, :40], sinks=np.zeros(2), softcap=3.0, dropout=0.5),
        numpy_score=lambda: A(q, k, v, score=NumpyDot()),
        pattern=lambda: A(q, k, v, mask=Odd()),
        aggregate=lambda: A(q, k, v, aggregate=Whole()),
        logits=lambda: ruvattn.attention_logits(q, k),
        weights=lambda: ruvattn.attention_weights(q, k),
        merge=lambda: ruvattn.merge_states([q, k], [q[..., 0], k[..., 0]]),
        bad_shape=raising(lambda: A(q, k[:1], v), error),
        bad_option=raising(lambda: A(q, k, v, dropout=2.0), error),
        score_raises=raising(lambda: A(q, k, v, score=Fails()), LookupError),
    )
"""


@linux
def test_memory_does_not_grow_with_the_number_of_calls():
    # Without the collector of cycles, so that what each call leaves to it counts as well.
    code = """
        import gc
        gc.disable()
        grown = {name: growth(call, 600) for name, call in calls.items()}
        print({name: size for name, size in grown.items() if size > 4 << 20})      # a leak of one array a call would be 12 MB
    """
    assert run(textwrap.dedent(GROWTH) + textwrap.dedent(code), OMP_NUM_THREADS="1") == "{}"


@linux
def test_python_threads_that_end_leave_no_team_behind():
    code = """
        def work():
            ruvattn.attention(*LARGE, threads=3)
        def once():
            worker = threading.Thread(target=work)
            worker.start()
            worker.join()
        once()
        time.sleep(0.1)
        before = team()
        for _ in range(20):
            once()
        time.sleep(0.3)
        print(team() - before)
    """
    assert run(code) == "0"


# --- instruction sets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", isa.supported_isas())
def test_the_environment_forces_an_instruction_set(name):
    code = """
        from ruvattn.isa import active_isa
        out = ruvattn.attention(*SMALL)
        loaded = sorted(name.rsplit(".", 1)[1] for name in sys.modules if name.startswith("ruvattn.kernels.tile"))
        print(active_isa(), *loaded, np.isfinite(out).all())
    """
    assert run(code, RUVATTN_ISA=f" {name.upper()} ") == f"{name} tile_{name}_float32 True"


@pytest.mark.parametrize("name", ["avx1024", "v4", "scalar,v3"])
def test_an_instruction_set_that_is_not_there_is_an_error_that_lists_those_that_are(name):
    code = """
        try:
            ruvattn.attention(*SMALL)
        except ruvattn.errors.UnsupportedError as error:
            print(error)
    """
    message = run(code, RUVATTN_ISA=name)
    assert f"RUVATTN_ISA={name!r}" in message
    assert ", ".join(isa.supported_isas()) in message
    assert "unset" in message


def test_an_empty_variable_forces_nothing():
    assert run("from ruvattn.isa import active_isa; print(active_isa())", RUVATTN_ISA="") == isa.supported_isas()[0]


@pytest.fixture
def fresh_choice(monkeypatch):
    """Let the instruction set be chosen anew, here and afterwards."""
    monkeypatch.delenv(isa.ISA_VARIABLE, raising=False)
    isa.supported_isas.cache_clear()
    isa.active_isa.cache_clear()
    yield monkeypatch
    isa.supported_isas.cache_clear()
    isa.active_isa.cache_clear()


def test_a_processor_without_avx2_gets_the_baseline_build(fresh_choice):
    fresh_choice.setattr(cpu, "supports", lambda name: name != "v3")
    assert isa.supported_isas() == ("baseline", "scalar")
    assert isa.load_kernels("ruvattn.kernels.tile", "float32").__name__ == "ruvattn.kernels.tile_baseline_float32"


def test_forcing_what_the_processor_lacks_is_refused(fresh_choice):
    fresh_choice.setattr(cpu, "supports", lambda name: name != "v3")
    fresh_choice.setenv(isa.ISA_VARIABLE, "v3")
    with pytest.raises(errors.UnsupportedError, match="'v3' is not available on this machine: use one of baseline, scalar"):
        isa.active_isa()


def test_without_any_build_the_error_says_how_to_get_one(fresh_choice):
    fresh_choice.setattr(isa, "_is_built", lambda name, which: False)
    with pytest.raises(errors.UnsupportedError, match="no compiled kernels"):
        isa.active_isa()


def test_a_module_that_lacks_the_best_build_is_loaded_in_the_next_simpler_one(tmp_path, monkeypatch):
    (tmp_path / "only_simple_scalar.py").write_text("WHICH = 'scalar'\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert ruvattn.load_kernels("only_simple").WHICH == "scalar"
    sys.modules.pop("only_simple_scalar")


@pytest.mark.parametrize("name", ["no_such_package._score", "ruvattn.kernels.nothing", "no_such_module", "ruvattn.kernels.tile"])
def test_kernels_that_are_not_there_are_an_error_that_names_them(name):
    with pytest.raises(errors.InvalidInputError, match=rf"no {name}_.*build and install"):
        ruvattn.load_kernels(name)


@pytest.mark.parametrize("name", ["", ".kernels", "a..b", "a/b", "a b", None, 3, b"ruvattn"])
def test_a_name_that_no_module_can_have_is_refused(name):
    with pytest.raises(errors.InvalidInputError, match="name must be the full name of a compiled module"):
        ruvattn.load_kernels(name)


def test_a_module_that_is_missing_inside_of_kernels_is_reported_as_itself(tmp_path, monkeypatch):
    (tmp_path / "needs_more_scalar.py").write_text("import module_that_does_not_exist\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="module_that_does_not_exist"):
        ruvattn.load_kernels("needs_more")


# --- pickling ---------------------------------------------------------------------------------------------------------------------

PARTS = [
    ruvattn.Dot(),
    ruvattn.Dot(0.5),
    ruvattn.Dot(np.array([0.5, 0.25])),
    NumpyDot(np.array([0.5, 0.25])),
    ruvattn.Causal(),
    ruvattn.Window(2, -1),
    ruvattn.KeyLengths(np.array([3])),
    ruvattn.BoolMask(np.tri(6, dtype=bool)),
    Stripes(3),
    ruvattn.WeightedSum(),
    Shifted(),
]


def _options(part):
    kind = {ruvattn.Score: "score", ruvattn.Pattern: "mask", ruvattn.Aggregate: "aggregate"}
    return next({name: part} for base, name in kind.items() if isinstance(part, base))


@pytest.mark.parametrize("again", [lambda x: pickle.loads(pickle.dumps(x)), copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_parts_survive_pickling_and_copying(part, again):
    q, k, v = np.random.default_rng(1).standard_normal((3, 2, 6, 8))
    wanted = ruvattn.attention(q, k, v, **_options(part))
    assert np.array_equal(ruvattn.attention(q, k, v, **_options(again(part))), wanted)


def test_a_sparse_mask_survives_pickling():
    sparse = pytest.importorskip("scipy.sparse")
    mask = ruvattn.SparseMatrixMask(sparse.csr_array(np.tri(6)))
    q, k, v = np.random.default_rng(1).standard_normal((3, 2, 6, 8))
    again = pickle.loads(pickle.dumps(mask))
    assert np.allclose(ruvattn.attention(q, k, v, mask=again), ruvattn.attention(q, k, v, causal=True), rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", [errors.InvalidInputError, errors.DimensionMismatchError, errors.UnsupportedError, errors.CheckpointError])
def test_errors_survive_pickling(kind):
    again = pickle.loads(pickle.dumps(kind("q is wrong")))
    assert type(again) is kind
    assert str(again) == "q is wrong"
