# cython: cdivision=True
"""The one place that knows OpenMP; without it every call runs on its own thread."""

cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #define RUVATTN_OPENMP _OPENMP
    /* OpenMP 5.0 has it; GCC has had it since 9, though it says 4.5 until 14. */
    #if _OPENMP >= 201811 || (defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 9)
      #define ruvattn_pause() omp_pause_resource_all(omp_pause_soft)
    #else
      #define ruvattn_pause() (-1)
    #endif
    #else
    #define RUVATTN_OPENMP 0
    #define omp_get_thread_num() 0
    #define omp_in_parallel() 0
    #define ruvattn_pause() 0
    #endif
    """
    const int RUVATTN_OPENMP             # _OPENMP's date, 0 without
    int omp_get_thread_num() noexcept nogil
    int omp_in_parallel() noexcept nogil
    int ruvattn_pause() noexcept nogil   # end the idle team, so that a fork is safe; 0 = done
