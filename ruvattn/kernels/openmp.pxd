# cython: cdivision=True
"""The one place that knows OpenMP; without it every call runs on its own thread."""

cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #define RUVATTN_OPENMP _OPENMP
    #ifdef _WIN32
    /* No fork to prepare for, and no limits on threads or their stacks that a team would run into. */
    #define ruvattn_team(n) (n)
    #define ruvattn_pause() 0
    #else
    #include <pthread.h>
    #include <stdlib.h>
    static __thread int ruvattn_started = 1;   /* the size of this thread's team, as far as is known here */
    static void *ruvattn_pass(void *gate) {
        pthread_mutex_lock((pthread_mutex_t *)gate);
        pthread_mutex_unlock((pthread_mutex_t *)gate);
        return NULL;
    }
    /* How many of n threads there can be. libgomp ends the process where it can't start one (no memory for a stack, a limit on processes), so
       before a team grows, as many threads are started here, side by side, and end again. */
    static int ruvattn_team(int n) {
        pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
        pthread_t *threads;
        int more = 0, i;
        if (n > ruvattn_started) {
            threads = (pthread_t *)malloc((size_t)(n - 1) * sizeof(pthread_t));
            if (threads == NULL)
                return 1;
            pthread_mutex_lock(&gate);
            while (more < n - 1 && pthread_create(threads + more, NULL, ruvattn_pass, &gate) == 0)
                more++;
            pthread_mutex_unlock(&gate);
            for (i = 0; i < more; i++)
                pthread_join(threads[i], NULL);
            free(threads);
            n = more + 1;
        }
        ruvattn_started = n;
        return n;
    }
    /* OpenMP 5.0 has it; GCC has had it since 9, though it says 4.5 until 14. */
    static int ruvattn_pause(void) {
        ruvattn_started = 1;
    #if _OPENMP >= 201811 || (defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 9)
        return omp_pause_resource_all(omp_pause_soft);
    #else
        return -1;
    #endif
    }
    #endif
    #else
    #define RUVATTN_OPENMP 0
    #define omp_get_thread_num() 0
    #define omp_get_num_threads() 1
    #define omp_in_parallel() 0
    #define ruvattn_pause() 0
    #define ruvattn_team(n) ((void)(n), 1)
    #endif
    """
    const int RUVATTN_OPENMP             # _OPENMP's date, 0 without
    int omp_get_thread_num() noexcept nogil
    int omp_get_num_threads() noexcept nogil
    int omp_in_parallel() noexcept nogil
    int ruvattn_team(int n) noexcept nogil   # how many of n threads can be started
    int ruvattn_pause() noexcept nogil   # end the idle team, so that a fork is safe; 0 = done
