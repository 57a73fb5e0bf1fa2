# cython: cdivision=True
"""Tasks handed out to a team of threads one by one, with Ctrl-C answered to the end of the last of them.

Only the main thread, which is the caller's and so number 0 of the team, can answer a signal. It waits for the others here, and not at OpenMP's
barrier, where it would be deaf: one row in wide arithmetic can take a minute.
"""
from cpython.exc cimport PyErr_CheckSignals

from .openmp cimport omp_get_num_threads, omp_get_thread_num

cdef extern from *:
    """
    #include <stddef.h>
    #ifdef _WIN32
    __declspec(dllimport) void __stdcall Sleep(unsigned long milliseconds);
    #define ruvattn_doze() Sleep(1)
    #else
    #include <time.h>
    static void ruvattn_doze(void) {
        struct timespec time = {0, 100000};
        nanosleep(&time, NULL);
    }
    #endif
    #if defined(__x86_64__) || defined(__i386__)
    #define ruvattn_spin() __builtin_ia32_pause()
    #elif defined(__aarch64__)
    #define ruvattn_spin() __asm__ volatile("yield")
    #else
    #define ruvattn_spin() ((void)0)
    #endif
    #define ruvattn_next(counter) __atomic_fetch_add(counter, (ptrdiff_t)1, __ATOMIC_RELAXED)
    #define ruvattn_arrive(counter) ((void)__atomic_fetch_add(counter, (ptrdiff_t)1, __ATOMIC_RELEASE))
    /* Whether n have arrived, waiting for it: at first awake, as at a barrier (most tasks take less than a millisecond), then dozing for a while. */
    static int ruvattn_all_arrived(const ptrdiff_t *arrived, ptrdiff_t n) {
        int i;
        for (i = 0; i < 10000; i++) {
            if (__atomic_load_n(arrived, __ATOMIC_ACQUIRE) >= n)
                return 1;
            ruvattn_spin();
        }
        for (i = 0; i < 300; i++) {
            if (__atomic_load_n(arrived, __ATOMIC_ACQUIRE) >= n)
                return 1;
            ruvattn_doze();
        }
        return 0;
    }
    """
    Py_ssize_t ruvattn_next(Py_ssize_t *counter) noexcept nogil
    void ruvattn_arrive(Py_ssize_t *counter) noexcept nogil
    bint ruvattn_all_arrived(const Py_ssize_t *arrived, Py_ssize_t n) noexcept nogil


ctypedef struct Queue:
    Py_ssize_t next      # the first task that nobody has taken
    Py_ssize_t end       # behind the last
    Py_ssize_t arrived   # threads that have found no task, the caller's left out
    int *stop            # word to all that they may stop
    void *raised         # a list that the caller owns: what a signal handler raised


cdef inline bint interrupted(void *raised) noexcept with gil:
    """Answer signals, in the middle of a task; whether a handler raised, which ends the call."""
    try:
        PyErr_CheckSignals()
    except BaseException as error:
        (<list>raised).append(error)
        return True
    return False


cdef inline Py_ssize_t next_task(Queue *queue) noexcept nogil:
    """A task that nobody has taken; ``queue.end`` or more where there is none, or where all may stop."""
    return queue.end if queue.stop[0] else ruvattn_next(&queue.next)


cdef inline void leave(Queue *queue) noexcept nogil:
    """What a thread of the team does that has found no task: it says so, or, the caller's, waits for the others, open to signals."""
    if omp_get_thread_num() != 0:
        ruvattn_arrive(&queue.arrived)
        return
    while not ruvattn_all_arrived(&queue.arrived, omp_get_num_threads() - 1):
        if interrupted(queue.raised):
            queue.stop[0] = 1
