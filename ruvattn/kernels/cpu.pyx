# cython: language_level=3
"""What this processor can execute, and how the kernels were compiled."""

cdef extern from *:
    """
    #if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    static int ruvattn_has_v3(void) {
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi")
            && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
    }
    #else
    static int ruvattn_has_v3(void) { return 0; }
    #endif
    #if defined(__clang__)
    #define RUVATTN_COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
    #define RUVATTN_COMPILER "gcc " __VERSION__
    #else
    #define RUVATTN_COMPILER "unknown"
    #endif
    #ifndef RUVATTN_FLAGS
    #define RUVATTN_FLAGS ""
    #endif
    """
    bint ruvattn_has_v3()
    const char *RUVATTN_COMPILER
    const char *RUVATTN_FLAGS

COMPILER = RUVATTN_COMPILER.decode()
FLAGS = RUVATTN_FLAGS.decode()


def supports(str isa not None):
    """Whether this processor can run the build of an instruction set: "scalar", "baseline" or "v3"."""
    if isa == "v3":
        return bool(ruvattn_has_v3())
    return isa in ("scalar", "baseline")
